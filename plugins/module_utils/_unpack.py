# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore from an archive without podman's copying: its memory pages are unpacked once, beside it, and linked into place.

`podman container restore --import` reads the whole archive three times on one thread and writes it out. Here the pages, nearly
all of it, are copied by parallel threads into a folder beside the archive; podman imports a small archive with symbolic links
in their stead, which CRIU's action script turns into hard links just before it reads them. The next restore of the same
archive finds the folder. Touches that folder only. Used by _restore.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils._archive import compression_of, part_of
from ansible_collections.gpufleet.warmstart.plugins.module_utils._criu import scripts_folder, write_private
from ansible_collections.gpufleet.warmstart.plugins.module_utils._golden import write_atomically

WORTH_IT = 64 << 20  # bytes of pages; below, podman's copying takes no time
COPIERS = 8  # threads
CHUNK = 32 << 20

# CRIU reads the pages after it has changed to the container's root, where a symbolic link would lead nowhere.
SCRIPT = """#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" = pre-restore ] || exit 0
for page in "$CRTOOLS_IMAGE_DIR"/pages-*.img; do
    [ -L "$page" ] || continue
    ln "$(readlink "$page")" "$page.linked" && mv -f "$page.linked" "$page" || exit 1
done
"""


def folder_of(archive: Path) -> Path:
    return archive.with_name(f".{archive.name}.pages")


@contextlib.contextmanager
def unpacked(archive: Path, identity: str, storage: Path) -> Iterator[tuple[Path, dict]]:
    """The archive to import, and the CRIU options that the import needs: those of the small one where that is possible.

    It is not for a compressed archive, for one that cannot be linked into podman's `storage`, and where the pages have no room.
    """
    folder = folder_of(archive)
    if not (is_unpacked(folder, identity) or (can_be(archive, storage) and unpack(archive, folder, identity))):
        yield archive, {}
        return
    with scripts_folder() as scripts:
        write_private(os.path.join(scripts, "link-pages"), SCRIPT, 0o700)
        yield folder / "import.tar", {"action-script": [os.path.join(scripts, "link-pages")]}


def is_unpacked(folder: Path, identity: str) -> bool:
    try:
        return (folder / "identity").read_text(encoding="utf-8") == identity
    except OSError:
        return False


def can_be(archive: Path, storage: Path) -> bool:
    return compression_of(archive) == "none" and can_link(archive, storage)


def can_link(archive: Path, storage: Path) -> bool:
    """Whether a file beside the archive can have a hard link in the storage: not across filesystems, nor across bind mounts of one."""
    with tempfile.NamedTemporaryFile(dir=archive.parent, prefix=".warmstart-link-") as file:
        link = storage / f"{Path(file.name).name}.link"
        try:
            os.link(file.name, link)
        except OSError:
            return False
        link.unlink()
        return True


def unpack(archive: Path, folder: Path, identity: str) -> bool:
    """Fill `folder`; False where it is not worth it or there is no room."""
    with tarfile.open(archive, "r:") as source:
        pages = {member.name: member for member in source if part_of(member.name) == "pages"}
    size = sum(member.size for member in pages.values())
    room = os.statvfs(archive.parent)
    if size < WORTH_IT or room.f_bavail * room.f_frsize < size + (64 << 20):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        with ThreadPoolExecutor(COPIERS) as pool:
            work = [job for member in pages.values() for job in copy(pool, archive, member, folder / Path(member.name).name)]
            write_small(archive, folder)
        for job in work:
            job.result()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    write_atomically(folder / "identity", identity)
    return True


def write_small(archive: Path, folder: Path) -> None:
    """The archive once more, with links in the place of the pages."""
    partial = folder / "import.tar"
    with tarfile.open(archive, "r:") as source, tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as target:
        partial.chmod(0o600)
        for member in source:
            if part_of(member.name) == "pages":
                link = tarfile.TarInfo(member.name)
                link.type, link.linkname = tarfile.SYMTYPE, str(folder / Path(member.name).name)
                target.addfile(link)
            else:
                target.addfile(member, source.extractfile(member) if member.isreg() else None)


def copy(pool: ThreadPoolExecutor, archive: Path, member: tarfile.TarInfo, target: Path) -> list:
    """Have the pool copy one member into `target`, piece by piece."""
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.truncate(member.size)
    starts = range(0, member.size, CHUNK)
    return [pool.submit(copy_piece, archive, member.offset_data + at, target, at, min(CHUNK, member.size - at)) for at in starts]


def copy_piece(archive: Path, offset: int, target: Path, at: int, size: int) -> None:
    buffer = memoryview(bytearray(1 << 20))
    with archive.open("rb", buffering=0) as source, target.open("r+b", buffering=0) as sink:
        source.seek(offset)
        sink.seek(at)
        while size:
            count = source.readinto(buffer[: min(size, len(buffer))])
            if not count:
                raise OSError(f"{archive} ended early")
            size -= sink.write(buffer[:count])
