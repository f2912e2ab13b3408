# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shards: the chunks of an archive whose digests stand in its manifest, each compressed with zstd, and the OCI manifest that lists them.

Runs zstd; touches only the files it is told. Who moves shards is in _transport.py, what is moved and when in _distribute.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils._manifest import digest_of
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError, explain

ARTIFACT = "application/vnd.gpufleet.warmstart.golden.v1"
MEDIA_TYPE = "application/vnd.gpufleet.warmstart.shard.v1+zstd"
INDEX_TYPE = "application/vnd.oci.image.manifest.v1+json"
CHUNK_KEY = "org.gpufleet.warmstart.chunk"  # annotation of a shard: SHA-256 of its bytes before compression
EMPTY = b"{}"  # the config that OCI asks of an artifact without one
# The level and the one thread stay as they are: other values make other bytes, and every shard would be sent again.
COMPRESS = ["zstd", "-3", "-T1", "-q", "-c"]
DECOMPRESS = ["zstd", "-d", "-q", "-c"]
BLOCK = 1 << 20


@dataclass(frozen=True)
class Shard:
    """A compressed chunk: `digest` and `size` are of the compressed bytes, `chunk` is the digest of the bytes before."""

    chunk: str
    digest: str
    size: int


class Layout:
    """Where the chunks of an archive lie, from the `archive` of its manifest."""

    def __init__(self, manifest: dict, where: str) -> None:
        archive = manifest.get("archive") if isinstance(manifest, dict) else None
        try:
            self.file: str = archive["file"]
            self.size: int = archive["size"]
            self.chunk_size: int = archive["chunk_size"]
            self.chunks: list[str] = archive["chunks"]
            sound = self.chunk_size > 0 and len(self.chunks) == -(-self.size // self.chunk_size) and self.file == Path(self.file).name
            sound = sound and all(re.fullmatch("[0-9a-f]{64}", chunk) for chunk in self.chunks)
        except (KeyError, TypeError):
            sound = False
        if not sound:
            raise WarmstartError("bad_input", f"{where} does not list the digests of its archive's chunks (schema 2 does).")

    @property
    def recorded(self) -> dict:
        """As _golden.py has it: what its manifest says of an archive."""
        return {"size": self.size, "chunk_size": self.chunk_size, "chunks": self.chunks, "digest": digest_of(self.chunks)}

    def span(self, index: int) -> tuple[int, int]:
        """Offset and length of a chunk; the last one may be shorter."""
        start = index * self.chunk_size
        return start, min(self.chunk_size, self.size - start)

    def places(self) -> dict[str, list[int]]:
        """Each different chunk, and where it occurs: equal chunks travel once."""
        found: dict[str, list[int]] = {}
        for index, chunk in enumerate(self.chunks):
            found.setdefault(chunk, []).append(index)
        return found


def sha256_file(path: Path) -> tuple[str, int]:
    """Digest and size."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def blocks(descriptor: int, start: int, length: int) -> Iterator[bytes]:
    """The bytes of an open file from `start`, fewer than `length` if it ends before."""
    while length:
        block = os.pread(descriptor, min(BLOCK, length), start)
        if not block:
            return
        yield block
        start += len(block)
        length -= len(block)


def chunk_digest(descriptor: int, start: int, length: int) -> str:
    digest = hashlib.sha256()
    for block in blocks(descriptor, start, length):
        digest.update(block)
    return digest.hexdigest()


def compress(data: bytes, chunk: str, path: Path) -> Shard:
    """Write `data`, whose digest is `chunk`, compressed to `path`. The same data gives the same bytes."""
    with path.open("xb") as file:
        done = _zstd(COMPRESS, input=data, stdout=file, stderr=subprocess.PIPE)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        reason = explain(said)
        raise WarmstartError(reason.code if reason else "command_failed", f"zstd: {said}")
    return Shard(chunk, *sha256_file(path))


def _zstd(argv: list[str], **more) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(argv, check=False, **more)
    except FileNotFoundError:
        raise WarmstartError("dependency_missing", "zstd was not found.") from None


def unpack(path: Path, shard: Shard, length: int, descriptor: int, start: int) -> None:
    """Write the chunk in the file `path` to `descriptor` from `start`. Raises digest_mismatch if it is not what it should be."""
    digest, size = hashlib.sha256(), 0
    try:
        process = subprocess.Popen([*DECOMPRESS, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        raise WarmstartError("dependency_missing", "zstd was not found.") from None
    with process:
        try:
            for block in iter(lambda: process.stdout.read(BLOCK), b""):
                if size + len(block) > length:
                    break
                digest.update(block)
                write(descriptor, block, start + size)
                size += len(block)
        finally:
            process.kill()  # it has ended by now, unless the shard is too long or the disk is full
    if digest.hexdigest() != shard.chunk:
        raise WarmstartError("digest_mismatch", f"Shard sha256:{shard.digest} unpacks to other bytes than the manifest says.")


def write(descriptor: int, block: bytes, start: int) -> None:
    view = memoryview(block)
    while view:
        count = os.pwrite(descriptor, view, start)
        view, start = view[count:], start + count


def make_index(shards: list[Shard]) -> bytes:
    """The OCI manifest of the artifact: one layer per chunk, in order. The same shards give the same bytes."""
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": f"sha256:{hashlib.sha256(EMPTY).hexdigest()}", "size": len(EMPTY)}
    layers = [
        {"mediaType": MEDIA_TYPE, "digest": f"sha256:{shard.digest}", "size": shard.size, "annotations": {CHUNK_KEY: shard.chunk}}
        for shard in shards
    ]
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "artifactType": ARTIFACT, "config": empty, "layers": layers}
    return json.dumps(index, separators=(",", ":")).encode()


def read_index(text: bytes, where: str) -> list[Shard]:
    """The shards of an OCI manifest. Raises digest_mismatch if it is not one of ours."""
    try:
        layers = json.loads(text)["layers"]
        shards = [Shard(layer["annotations"][CHUNK_KEY], layer["digest"].removeprefix("sha256:"), int(layer["size"])) for layer in layers]
        sound = all(re.fullmatch("[0-9a-f]{64}", value) for shard in shards for value in (shard.chunk, shard.digest))
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise WarmstartError("digest_mismatch", f"{where} is not the list of a golden checkpoint's shards.")
    return shards
