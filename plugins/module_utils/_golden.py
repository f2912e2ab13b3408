# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The golden checkpoint: an archive and the manifest.json beside it, its digests, and the stamp that it was verified.

Touches manifest.json in the archive's folder and stamps under /run/gpufleet-warmstart. What a manifest must hold is in
_manifest.py, who signed it in _signature.py, which versions a host keeps in _versions.py.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils import _manifest, _signature
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

CHUNK = 64 << 20  # bytes that one digest covers
READERS = 8  # threads; hashlib lets them run side by side
RUN = Path("/run/gpufleet-warmstart")


def manifest_path(archive: Path) -> Path:
    return archive.parent / "manifest.json"


def read_manifest(archive: Path) -> dict | None:
    """The manifest beside `archive`, or None where there is none for it. Raises manifest_invalid and manifest_schema."""
    return _read(archive)[0]


def read_signed(runner: Runner, archive: Path, allowed_signers: str) -> dict:
    """The manifest beside `archive`, after its signature was verified over the very bytes that are parsed.

    Raises signature_missing (of an archive without a manifest, too) and what _signature.verify() raises.
    """
    manifest, content = _read(archive, lambda path, content: _signature.verify(runner, path, content, allowed_signers))
    if manifest is None:
        raise WarmstartError("signature_missing", f"{archive} has no manifest{' of its own' if content else ''} that could be signed.")
    return manifest


def _read(archive: Path, first=None) -> tuple[dict | None, bytes]:
    path = manifest_path(archive)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None, b""
    if first:
        first(path, content)
    manifest = _manifest.parse(content, str(path))
    return (manifest if manifest["archive"]["file"] == archive.name else None), content


def write_manifest(archive: Path, manifest: dict) -> None:
    write_atomically(manifest_path(archive), json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def parse_created(manifest: dict) -> datetime.datetime:
    return datetime.datetime.fromisoformat(manifest["created"])


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Write beside the final name, flush to disk, rename."""
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def digests(path: Path, size: int) -> list[str]:
    """The SHA-256 in hex of each `size` bytes of the file, computed by parallel threads."""
    starts = range(0, path.stat().st_size, size)
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda start: _digest(path, start, size), starts))


def _digest(path: Path, start: int, size: int) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while size:
            count = file.readinto(buffer[: min(size, len(buffer))])
            if not count:
                break
            digest.update(buffer[:count])
            size -= count
    return digest.hexdigest()


def describe(path: Path, name: str) -> dict:
    """What a manifest says of the archive `path` by which it is recognised: file, size, chunk_size, chunks, digest."""
    chunks = digests(path, CHUNK)
    size = path.stat().st_size
    return {"file": name, "size": size, "chunk_size": CHUNK, "chunks": chunks, "digest": _manifest.digest_of(chunks)}


def difference(archive: Path, recorded: dict) -> str:
    """How the file differs from the manifest's `archive`; empty where it is the same."""
    size = archive.stat().st_size
    if size != recorded["size"]:
        return f"{archive} has {size} bytes, its manifest says {recorded['size']}."
    found = digests(archive, recorded["chunk_size"])
    wrong = [index for index, (one, other) in enumerate(zip(found, recorded["chunks"])) if one != other]
    if not wrong:
        return ""
    return (
        f"{archive}: {len(wrong)} of {len(found)} chunks differ from the manifest, the first at byte {wrong[0] * recorded['chunk_size']}."
    )


def verify(archive: Path, recorded: dict) -> None:
    """Compare the file with the manifest's `archive`; read it again only if it changed since it was last verified.

    Raises archive_corrupt.
    """
    if is_verified(archive, recorded["digest"]):
        return
    wrong = difference(archive, recorded)
    if wrong:
        raise WarmstartError("archive_corrupt", wrong)
    note_verified(archive, recorded["digest"])


def is_verified(archive: Path, digest: str) -> bool:
    """Whether the file, as it is now, was found to have this digest since the host was booted."""
    path, stamp = _stamp(archive, digest)
    try:
        return json.loads(path.read_text(encoding="utf-8")) == stamp
    except (OSError, ValueError):
        return False


def note_verified(archive: Path, digest: str) -> None:
    path, stamp = _stamp(archive, digest)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, json.dumps(stamp))


def _stamp(archive: Path, digest: str) -> tuple[Path, dict]:
    """The stamp lives under /run, so that a reboot verifies anew."""
    stat = archive.stat()
    stamp = {"digest": digest, "file": [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]}
    return RUN / "verified" / hashlib.sha256(str(archive.resolve()).encode()).hexdigest(), stamp


def restored_from(container_id: str) -> Path:
    """Where it is noted from which archive a container was restored; under /run, since containers end with the boot."""
    return RUN / "restored" / container_id


def note_restored(container_id: str, identity: str) -> None:
    path = restored_from(container_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, identity)


def was_restored_from(container_id: str, identity: str) -> bool:
    try:
        return restored_from(container_id).read_text(encoding="utf-8") == identity
    except OSError:
        return False


def identity(archive: Path, manifest: dict | None) -> str:
    """What tells one archive from another without reading it: its manifest's digest, else size and time."""
    if manifest:
        return manifest["archive"]["digest"]
    stat = archive.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"
