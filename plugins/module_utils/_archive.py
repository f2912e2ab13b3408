# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a checkpoint holds, read without restoring or unpacking it: an archive (tar, gzip, zstd) or a folder in place.

Only reads. The manifest beside an archive is the business of _golden.py.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils import _findings
from ansible_collections.gpufleet.warmstart.plugins.module_utils._golden import read_manifest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._podman import Container
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
GZIP_MAGIC = b"\x1f\x8b"
READ = ("config.dump", "spec.dump", "deleted.files")
REQUIRED = ("config.dump", "spec.dump", "checkpoint/inventory.img")


@dataclass(frozen=True)
class Contents:
    """What was checkpointed and how large it is.

    config and spec: podman's config.dump and the OCI runtime's spec.dump, whole (they hold environment values: return
    `summary()`, never these). compression: none, gzip or zstd. parts: bytes per part, uncompressed. deleted: content of
    deleted.files. names: of the archive's members.
    """

    config: dict
    spec: dict
    compression: str
    parts: dict[str, int]
    deleted: list = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def summary(self) -> dict:
        """The container as it will be restored, with the names of its environment and without their values."""
        process = self.spec.get("process") or {}
        return {
            "id": self.config["id"],
            "name": self.config["name"],
            "created": self.config.get("createdTime"),
            "image": self.config.get("rootfsImageName"),
            "image_id": self.config.get("rootfsImageID"),
            "runtime": self.config.get("runtime"),
            "command": process.get("args") or [],
            "environment_names": sorted(item.partition("=")[0] for item in process.get("env") or []),
            "mounts": [
                {"source": mount["source"], "destination": mount["destination"], "options": mount.get("options") or []}
                for mount in _findings.foreign_mounts(self.config, self.spec)
            ],
            "findings": self.findings(),
            "ports": self.ports(),
            "network": self.network(),
        }

    def findings(self) -> list[dict]:
        return _findings.find(self.config, self.spec, self.deleted, self.names)

    def network(self) -> str:
        namespaces = {namespace["type"] for namespace in (self.spec.get("linux") or {}).get("namespaces") or []}
        return self.config.get("networkMode") or ("private" if "network" in namespaces else "host")

    def ports(self) -> list[dict]:
        return [
            {
                "host_ip": port["host_ip"],
                "host_port": port["host_port"] + step,
                "container_port": port["container_port"] + step,
                "protocol": port["protocol"],
            }
            for port in self.config.get("newPortMappings") or []
            for step in range(port.get("range") or 1)
        ]


def part_of(member: str) -> str:
    """The part of a checkpoint that an archive's member belongs to."""
    folder, _slash, name = member.rpartition("/")
    if folder.startswith("volumes"):
        return "volumes"
    if folder == "checkpoint":
        if name.startswith("pages-"):
            return "pages"
        return "gpu_pages" if name.startswith("gpu-") else "criu"
    return {"rootfs-diff.tar": "root_diff", "devshm-checkpoint.tar": "shared_memory"}.get(name, "metadata")


def compression_of(path: Path) -> str:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == ZSTD_MAGIC:
        return "zstd"
    return "gzip" if magic[:2] == GZIP_MAGIC else "none"


def require_zstd() -> str:
    """The path of the zstd program."""
    zstd = shutil.which("zstd")
    if not zstd:
        raise WarmstartError("dependency_missing", "Reading a zstd archive needs the program zstd.")
    return zstd


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tarfile.TarFile]:
    """The archive as a tar stream; zstd is unpacked by the zstd program, since Python knows it only from 3.14 on."""
    if compression_of(path) != "zstd":
        with tarfile.open(path) as archive:
            yield archive
        return
    with subprocess.Popen([require_zstd(), "-dcq", "--", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                yield archive
        finally:
            process.kill()


def read_archive(path: Path) -> Contents:
    """Read an archive to its end. Raises archive_missing, archive_corrupt, dependency_missing."""
    if not path.is_file():
        raise WarmstartError("archive_missing", f"There is no file {path}.")
    texts: dict[str, bytes] = {}
    parts: dict[str, int] = {}
    names: list[str] = []
    try:
        with opened(path) as archive:
            for member in archive:
                name = member.name[2:] if member.name.startswith("./") else member.name
                names.append(name)
                parts[part_of(name)] = parts.get(part_of(name), 0) + member.size
                if name in READ:
                    texts[name] = archive.extractfile(member).read()
        missing = [name for name in REQUIRED if name not in names]
        if missing:
            raise WarmstartError("archive_corrupt", f"{path} holds no {' and no '.join(missing)}.")
        twice = [name for name in READ if names.count(name) > 1]
        if twice:
            raise WarmstartError("archive_corrupt", f"{path} holds {' and '.join(twice)} more than once.")
        config, spec, deleted = (json.loads(texts.get(name, b"[]")) for name in READ)
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise WarmstartError("archive_corrupt", f"{path}: {error}") from None
    return Contents(config, spec, compression_of(path), parts, deleted, names)


def read_in_place(container: Container) -> Contents:
    """The checkpoint that lies in the container's own storage. Raises checkpoint_missing."""
    if not container.has_checkpoint():
        raise WarmstartError("checkpoint_missing", f"{container.name} has no checkpoint in {container.userdata}.")
    parts: dict[str, int] = {}
    for file in container.userdata.rglob("*"):
        relative = str(file.relative_to(container.userdata))
        if file.is_file() and (relative.startswith("checkpoint/") or relative == "devshm-checkpoint.tar"):
            parts[part_of(relative)] = parts.get(part_of(relative), 0) + file.stat().st_size
    facts = container.facts
    config = {
        "id": container.id,
        "name": container.name,
        "createdTime": facts["Created"],
        "rootfsImageName": facts["ImageName"],
        "rootfsImageID": facts["Image"],
        "runtime": container.runtime,
        "privileged": facts["HostConfig"].get("Privileged", False),
        "networkMode": facts["HostConfig"]["NetworkMode"],
        "newPortMappings": [
            {"host_ip": address, "host_port": port, "container_port": int(inside.partition("/")[0]), "protocol": inside.partition("/")[2]}
            for inside, bindings in (facts["HostConfig"].get("PortBindings") or {}).items()
            for address, port in ((bound.get("HostIp") or "", int(bound["HostPort"])) for bound in bindings or [])
        ],
    }
    spec = {
        "process": {
            "args": [facts["Path"], *facts["Args"]],
            "env": facts["Config"]["Env"],
            "capabilities": {"bounding": facts.get("BoundingCaps") or []},
        },
        "annotations": facts["Config"].get("Annotations") or {},
        "mounts": [
            {"type": "bind", "source": mount["Source"], "destination": mount["Destination"], "options": mount.get("Options") or []}
            for mount in facts.get("Mounts") or []
        ],
    }
    return Contents(config, spec, "none", parts)


def describe_archive(path: Path) -> dict:
    """What podman_checkpoint_info returns of an archive."""
    contents, manifest = read_archive(path), read_manifest(path)
    taken = manifest["created"] if manifest else time_of(path)
    known = {"manifest": manifest, "versions": versions_of(manifest)} if manifest else {"versions": {}}
    return {**known, **describe(contents, taken, path.stat().st_size)}


def describe_in_place(container: Container) -> dict:
    """What podman_checkpoint_info returns of a checkpoint in place."""
    contents = read_in_place(container)
    taken = time_of(container.userdata / "checkpoint" / "inventory.img")
    return {"versions": {}, **describe(contents, taken, sum(contents.parts.values()))}


def describe(contents: Contents, taken: str, size: int) -> dict:
    return {
        "checkpoint": contents.summary(),
        "checkpointed": taken,
        "compression": contents.compression,
        "size": size,
        "parts": contents.parts,
    }


def versions_of(manifest: dict) -> dict[str, str]:
    host = manifest["host"]
    return {key: host[key] for key in ("podman", "runtime", "runtime_version", "kernel", "criu")}


def time_of(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).isoformat()
