# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publish a golden checkpoint's archive as shards, and put one together on a host from shards, from earlier versions, and from what
an interrupted run left.

Touches the golden checkpoint's folder NAME/VERSION, and beside it .VERSION*.partial while at work. Shards are in
_shards.py, the ways they move in _transport.py.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils import _golden
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError
from ansible_collections.gpufleet.warmstart.plugins.module_utils._shards import (
    Layout,
    Shard,
    blocks,
    chunk_digest,
    compress,
    make_index,
    read_index,
    unpack,
    write,
)
from ansible_collections.gpufleet.warmstart.plugins.module_utils._transport import persistent

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"


@dataclass(frozen=True)
class Wanted:
    """What is to be in `folder`: the manifest's bytes, those of its signature, and the archive that the manifest describes."""

    folder: Path
    manifest: bytes
    signature: bytes | None

    @property
    def layout(self) -> Layout:
        try:
            return Layout(json.loads(self.manifest), "The manifest")
        except ValueError as error:
            raise WarmstartError("bad_input", f"The manifest is not JSON: {error}") from None

    @property
    def partial(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.partial")


class Crew:
    """Threads that work through a list until one fails; what the others had begun is finished, since it need not be done again."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._failed = threading.Event()

    def stopped(self) -> bool:
        return self._failed.is_set()

    def work(self, action: Callable, items: Iterable) -> list:
        """The results in order. Raises the first error."""
        with ThreadPoolExecutor(self.size) as pool:
            futures = [pool.submit(self._guarded, action, item) for item in items]
        errors = [error for error in (future.exception() for future in futures) if error]
        if errors:
            raise min(errors, key=lambda error: isinstance(error, Skipped))
        return [future.result() for future in futures]

    def _guarded(self, action: Callable, item):
        if self.stopped():
            raise Skipped
        try:
            return action(item)
        except BaseException:
            self._failed.set()
            raise


class Skipped(Exception):
    """Not begun, because another one failed."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Path]:
    """Make the folder, private, with those above it, and hold it against other runs. Raises transfer_busy."""
    for parent in [folder, *folder.parents][::-1]:
        with contextlib.suppress(FileExistsError):
            parent.mkdir(mode=0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), folder.stat()):
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):  # held, or just moved into place
            raise WarmstartError("transfer_busy", f"{folder} is held by another run.") from None
        yield folder
    finally:
        os.close(descriptor)


def in_place(wanted: Wanted) -> str:
    """What there is already: `all`, `archive` (with another manifest or signature), or nothing. Raises archive_exists."""
    layout = wanted.layout
    try:
        manifest = (wanted.folder / MANIFEST).read_bytes()
        there = Layout(json.loads(manifest), str(wanted.folder / MANIFEST))
        _golden.verify(wanted.folder / there.file, there.recorded)
    except (FileNotFoundError, ValueError, WarmstartError):
        return ""
    if there.chunks != layout.chunks:
        raise WarmstartError("archive_exists", f"{wanted.folder} holds another golden checkpoint, and one never changes.")
    signature = wanted.folder / SIGNATURE
    same = manifest == wanted.manifest and (signature.read_bytes() if signature.exists() else None) == wanted.signature
    return "all" if same else "archive"


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """A full disk is a reason and no crash."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise WarmstartError("disk_full", f"{where}: {error.strerror}.") from None


def fetch(wanted: Wanted, transport, parallel: int) -> dict:
    """Put the golden checkpoint into its folder; `transport` is None where the archive was laid into the partial folder already."""
    started = time.monotonic()
    with disk_errors(wanted.folder), held(wanted.partial) as partial:
        try:
            with disk_errors(partial):
                seen = Assembly(wanted, partial, Crew(parallel)).run(transport)
                settle(wanted, partial)
        except WarmstartError as error:
            if error.reason.code == "disk_full":
                shutil.rmtree(partial, ignore_errors=True)  # a full disk is worse than a transfer from the start
            raise
    seen["timings"]["total"] = time.monotonic() - started
    return seen


class Assembly:
    """One archive in the making: `done` lists the chunks that were written, so that a rerun looks at those first."""

    def __init__(self, wanted: Wanted, partial: Path, crew: Crew) -> None:
        self.wanted, self.layout, self.crew = wanted, wanted.layout, crew
        self.partial, self.done = partial, partial / "done"
        self.archive, self.scratch = partial / self.layout.file, partial / "shards"
        self.lock = threading.Lock()
        self.received = 0
        self.counts: dict[str, int] = {}
        self.timings: dict[str, float] = {}

    def run(self, transport) -> dict:
        self.scratch.mkdir(mode=0o700, exist_ok=True)
        if transport is None:  # the notes are of an archive that the copy replaced
            self.done.unlink(missing_ok=True)
        known = self.known()
        self.descriptor = os.open(self.archive, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with disk_errors(self.partial):
                os.fchmod(self.descriptor, 0o600)
                if self.layout.size:
                    os.posix_fallocate(self.descriptor, 0, self.layout.size)  # a disk too small shows before a byte moves
                os.ftruncate(self.descriptor, self.layout.size)
                have = self.step("resumed", self.resume, known)
                have |= self.step("reused", self.reuse, [index for index in range(len(self.layout.chunks)) if index not in have])
                missing = [places for places in self.layout.places().values() if not have.issuperset(places)]
                self.step("fetched", lambda items: self.transfer(transport, items), missing)
                os.fsync(self.descriptor)
        except WarmstartError as error:
            error.facts.update(self.facts())
            raise
        finally:
            os.close(self.descriptor)
        return self.facts()

    def facts(self) -> dict:
        return {"bytes_received": self.received, "chunks": {"all": len(self.layout.chunks), **self.counts}, "timings": self.timings}

    def step(self, name: str, action: Callable, items) -> set[int]:
        started = time.monotonic()
        try:
            found = action(items)
        finally:
            self.timings[name] = time.monotonic() - started
        self.counts[name] = len(found)
        return found

    def known(self) -> list[int]:
        """The chunks that may be there from an earlier run; without notes on an archive, all of them."""
        every = range(len(self.layout.chunks))
        if not self.archive.exists():
            self.done.unlink(missing_ok=True)
            return []
        if not self.done.exists():
            return list(every)
        return sorted({int(word) for word in self.done.read_text(encoding="ascii").split() if word.isdigit() and int(word) in every})

    def resume(self, known: list[int]) -> set[int]:
        """Those of the known chunks whose bytes are right: the host may have gone down before they reached the disk."""
        right = self.crew.work(lambda index: chunk_digest(self.descriptor, *self.layout.span(index)) == self.layout.chunks[index], known)
        found = {index for index, good in zip(known, right) if good}
        self.done.write_text("".join(f"{index}\n" for index in sorted(found)), encoding="ascii")
        return found

    def reuse(self, missing: list[int]) -> set[int]:
        """Copy the chunks that other versions on this host have, too."""
        with contextlib.ExitStack() as stack:
            sources = neighbours(self.wanted.folder, self.layout.chunk_size, stack)
            items = [index for index in missing if self.layout.chunks[index] in sources]
            copied = self.crew.work(lambda index: self.copy(index, *sources[self.layout.chunks[index]]), items)
        return {index for index, good in zip(items, copied) if good}

    def copy(self, index: int, source: int, offset: int) -> bool:
        start, length = self.layout.span(index)
        digest, position = hashlib.sha256(), start
        for block in blocks(source, offset, length):
            digest.update(block)
            write(self.descriptor, block, position)
            position += len(block)
        if digest.hexdigest() != self.layout.chunks[index]:
            return False
        self.note([index])
        return True

    def note(self, places: list[int]) -> None:
        with self.lock, self.done.open("a", encoding="ascii") as file:
            file.write("".join(f"{index}\n" for index in places))

    def transfer(self, transport, missing: list[list[int]]) -> list[int]:
        if not missing:
            return []
        chunks = [self.layout.chunks[places[0]] for places in missing]
        if transport is None:
            raise WarmstartError("digest_mismatch", f"{len(missing)} of {len(self.layout.chunks)} chunks of {self.archive} are wrong.")
        shards = {shard.chunk: shard for shard in self.listed(transport)}
        absent = [chunk for chunk in chunks if chunk not in shards]
        if absent:
            raise WarmstartError("digest_mismatch", f"What is published lacks {len(absent)} of the manifest's chunks: it is another one.")
        wanted = {shards[chunk].digest for chunk in chunks}
        for leftover in self.scratch.iterdir():
            if leftover.name not in wanted:
                leftover.unlink()
        self.crew.work(lambda places: self.get(transport, shards[self.layout.chunks[places[0]]], places), missing)
        return chunks

    def listed(self, transport) -> list[Shard]:
        index: list[bytes | None] = []
        persistent(lambda: index.append(transport.get_index()) or 0)
        if index[-1] is None:
            raise WarmstartError("registry_missing", "This version is not published there; publish it from the host that baked it.")
        return read_index(index[-1], "What is published")

    def get(self, transport, shard: Shard, places: list[int]) -> None:
        path = self.scratch / shard.digest
        received = persistent(lambda: transport.get(shard, path), self.crew.stopped)
        with self.lock:
            self.received += received
        try:
            for index in places:
                start, length = self.layout.span(index)
                unpack(path, shard, length, self.descriptor, start)
        finally:
            path.unlink(missing_ok=True)
        self.note(places)


def neighbours(folder: Path, chunk_size: int, stack: contextlib.ExitStack) -> dict[str, tuple[int, int]]:
    """Where other versions on this host, and a broken copy of this one, have which chunk: descriptor of the archive, and offset."""
    found: dict[str, tuple[int, int]] = {}
    for version in folder.parent.iterdir():
        if version.name.startswith(".") or version.is_symlink() or not version.is_dir():
            continue
        with contextlib.suppress(OSError, ValueError, WarmstartError):
            layout = Layout(json.loads((version / MANIFEST).read_bytes()), version.name)
            descriptor = os.open(version / layout.file, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            if layout.chunk_size == chunk_size:
                found.update({chunk: (descriptor, layout.span(index)[0]) for index, chunk in enumerate(layout.chunks)})
    return found


def settle(wanted: Wanted, partial: Path) -> None:
    """Manifest last, then the whole folder takes its name. A broken copy that has it gives way."""
    shutil.rmtree(partial / "shards")
    (partial / "done").unlink()
    write_manifest(wanted, partial)
    aside = wanted.folder.with_name(f".{wanted.folder.name}.broken.partial")
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        wanted.folder.rename(aside)
    partial.rename(wanted.folder)
    sync(wanted.folder.parent)
    shutil.rmtree(aside, ignore_errors=True)
    _golden.note_verified(wanted.folder / wanted.layout.file, wanted.layout.recorded["digest"])


def write_manifest(wanted: Wanted, folder: Path) -> None:
    signature = folder / SIGNATURE
    if wanted.signature is None:
        signature.unlink(missing_ok=True)
    else:
        _golden.write_atomically(signature, wanted.signature.decode())
    _golden.write_atomically(folder / MANIFEST, wanted.manifest.decode())
    sync(folder)


def sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def published(transport, layout: Layout) -> bool:
    """Whether this archive is published already. Raises version_published if another one is."""
    index = transport.get_index()
    if index is None:
        return False
    if [shard.chunk for shard in read_index(index, "What is published under this tag")] != layout.chunks:
        raise WarmstartError("version_published", "Its shards are not those of this archive.")
    return True


def publish(folder: Path, layout: Layout, transport, parallel: int) -> dict:
    """Send what is not there yet of the archive in `folder`, the list of its shards last."""
    started = time.monotonic()
    crew, sent = Crew(parallel), []
    archive = folder / layout.file
    with disk_errors(folder), held(folder.with_name(f".{folder.name}.publish.partial")) as scratch, archive.open("rb") as file:
        if os.fstat(file.fileno()).st_size != layout.size:
            raise WarmstartError("archive_corrupt", f"{archive} has not the size that its manifest says.")

        def send(places: list[int]) -> Shard:
            start, length = layout.span(places[0])
            shard, path = prepared(os.pread(file.fileno(), length, start), layout.chunks[places[0]], scratch)
            sent.append((persistent(lambda: transport.put(shard, path), crew.stopped), shard.size))
            path.unlink()
            return shard

        try:
            for leftover in scratch.iterdir():
                leftover.unlink()
            shards = {shard.chunk: shard for shard in crew.work(send, layout.places().values())}
            persistent(lambda: transport.put_index(make_index([shards[chunk] for chunk in layout.chunks]), scratch) or 0)
        except WarmstartError as error:
            error.facts["bytes_sent"] = sum(count for count, _size in sent)
            raise
        finally:
            shutil.rmtree(scratch)  # shards are memory, too
    return {
        "bytes_sent": sum(count for count, _size in sent),
        "bytes_compressed": sum(size for _count, size in sent),
        "shards": {"all": len(sent), "sent": sum(bool(count) for count, _size in sent)},
        "timings": {"total": time.monotonic() - started},
    }


def prepared(data: bytes, chunk: str, scratch: Path) -> tuple[Shard, Path]:
    if hashlib.sha256(data).hexdigest() != chunk:
        raise WarmstartError("archive_corrupt", "A chunk of the archive is not what its manifest says.")
    return compress(data, chunk, scratch / chunk), scratch / chunk
