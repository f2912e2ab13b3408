# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The golden checkpoint: an archive and the manifest.json beside it, its digest, and the stamp that it was verified.

Touches manifest.json in the archive's folder and stamps under /run/gpufleet-warmstart. docs/golden-checkpoint.md
describes the manifest.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

SCHEMA = 1
RUN = Path("/run/gpufleet-warmstart")


def manifest_path(archive: Path) -> Path:
    return archive.parent / "manifest.json"


def read_manifest(archive: Path) -> dict | None:
    """The manifest beside `archive`, or None where there is none. Raises archive_corrupt if it cannot be read."""
    path = manifest_path(archive)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise WarmstartError("archive_corrupt", f"{path} is not JSON: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA or "archive" not in manifest:
        raise WarmstartError("archive_corrupt", f"{path} is not a manifest of schema {SCHEMA}.")
    return manifest if manifest["archive"].get("file") == archive.name else None


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


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while True:
            count = file.readinto(buffer)
            if not count:
                return digest.hexdigest()
            digest.update(buffer[:count])


def verify(archive: Path, expected: str) -> None:
    """Compare the archive's digest with `expected`; read it again only if the file changed since it was last verified.

    Raises archive_corrupt.
    """
    if is_verified(archive, expected):
        return
    found = sha256(archive)
    if found != expected:
        raise WarmstartError("archive_corrupt", f"{archive} has sha256 {found}, its manifest says {expected}.")
    note_verified(archive, expected)


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
        return manifest["archive"]["sha256"]
    stat = archive.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"
