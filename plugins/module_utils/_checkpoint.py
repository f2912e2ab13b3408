# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take a checkpoint of a serving container, in place or as an archive with its manifest.

Touches the container, its in-place checkpoint, and the archive's folder. A failed dump leaves the container serving; a
failed export brings it back from the images in place. The way back is _restore.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils import (
    _archive,
    _engine,
    _fingerprint,
    _freeze,
    _golden,
    _manifest,
    _restore,
    _signature,
)
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Result
from ansible_collections.gpufleet.warmstart.plugins.module_utils._criu import Criu, criu_environment
from ansible_collections.gpufleet.warmstart.plugins.module_utils._podman import Container, Podman, criu_errors, statistics
from ansible_collections.gpufleet.warmstart.plugins.module_utils._process import cgroup_pids
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

COMPRESS = ("none", "zstd", "gzip")


@dataclass(frozen=True)
class Options:
    """What podman_checkpoint was asked for; see the module's documentation for each."""

    name: str
    archive: Path | None = None
    compress: str = "none"
    keep: bool = False
    leave_running: bool = False
    tcp_established: bool = False
    file_locks: bool = False
    ignore_rootfs: bool = False
    ignore_volumes: bool = False
    print_stats: bool = True
    criu_path: str | None = None
    criu_config: dict | None = None
    model: str | None = None
    oracle: dict | None = None
    metadata: dict | None = None
    gpu_method: str = "auto"
    lock_timeout: float = 10.0
    sleep_level: int = 1
    force: bool = False

    def __post_init__(self) -> None:
        if self.archive:
            if not self.archive.is_absolute():
                raise WarmstartError("bad_input", f"archive must be an absolute path, not {self.archive}.")
            return
        for option in ("ignore_rootfs", "ignore_volumes", "model", "oracle", "metadata"):
            if getattr(self, option):
                raise WarmstartError("bad_input", f"{option} needs archive: podman refuses it for a checkpoint in place.")
        if self.compress != "none":
            raise WarmstartError("bad_input", f"compress: {self.compress} needs archive: a checkpoint in place is not compressed.")

    def arguments(self, partial: Path | None) -> list[str]:
        arguments = ["container", "checkpoint"]
        for option in ("keep", "leave_running", "tcp_established", "file_locks", "ignore_rootfs", "ignore_volumes", "print_stats"):
            if getattr(self, option):
                arguments.append("--" + option.replace("_", "-"))
        if partial:
            arguments += ["--export", str(partial), "--compress", self.compress]
        return [*arguments, self.name]


def is_current(container: Container, options: Options) -> dict | None:
    """What an earlier run left, if it is this container's state since it last began to run, and intact; else None."""
    if options.force or (container.running and not options.leave_running):
        return None
    if not options.archive:
        return {"location": str(container.userdata / "checkpoint")} if container.checkpointed_since_start() else None
    if not options.archive.is_file():
        return None
    manifest = _golden.read_manifest(options.archive)
    if not manifest or manifest["container"]["id"] != container.id:
        return None
    digest = manifest["archive"]["digest"]
    if _golden.parse_created(manifest) < container.started and not _golden.was_restored_from(container.id, digest):
        return None
    if _golden.difference(options.archive, manifest["archive"]):
        return None
    return {"location": str(options.archive), "manifest": manifest, "size": manifest["archive"]["size"]}


def checkpoint(podman: Podman, container: Container, options: Options) -> dict:
    """Take the checkpoint; the result holds location, size, parts, timings (seconds) and, of an archive, the manifest."""
    container.require_running()
    if _engine.own_connections(container.engine[0]):
        options = dataclasses.replace(options, tcp_established=True)
    asked = options
    if options.archive and options.leave_running and _freeze.holds_unlinked_semaphores(container):
        # A dump that leaves the processes running takes its links to these away before podman has saved them.
        options = dataclasses.replace(options, leave_running=False, keep=True)
    partial = prepare_archive(options.archive, options.compress) if options.archive else None
    engine, url = container.engine
    # asked before it sleeps
    version = _fingerprint.engine_version(engine, url) if options.archive else None
    started = time.monotonic()
    frozen, timings, froze = _freeze.freeze(podman.runner, container, options.gpu_method, options.sleep_level, options.lock_timeout)
    try:
        _freeze.require_dumpable(container)
        with set_aside(container):
            result = dump(podman, container, options, partial, frozen, timings)
            if partial:
                told = {"name": engine or "openai", "version": version}
                result = finish_archive(podman, container, options, partial, frozen, timings, told)
    except BaseException:
        if froze and podman.get(container.id).running:
            _freeze.thaw(podman.runner, podman.get(container.id), frozen)
        raise
    finally:
        if partial:
            partial.unlink(missing_ok=True)
    if asked.leave_running and not options.leave_running:
        timings["brought_back"] = _restore.restore(podman, _restore.Options(container.name, keep=asked.keep), None)["timings"]["total"]
        _golden.note_restored(container.id, result["manifest"]["archive"]["digest"])
    elif froze and options.leave_running:
        timings.update(_freeze.thaw(podman.runner, container, frozen)[0])
    timings["total"] = time.monotonic() - started
    return {**result, "timings": timings}


def dump(podman: Podman, container: Container, options: Options, partial: Path | None, frozen: _freeze.Frozen, timings: dict) -> dict:
    """podman's and CRIU's part, after a look at the space for it; describes a checkpoint in place (of an archive: finish_archive)."""
    needed = dumped_bytes(container.pid)
    require_space(container.userdata, needed)
    if partial and options.compress == "none":
        require_space(partial.parent, needed)
    config = {**frozen.criu_config(), **(options.criu_config or {})}
    with criu_environment(podman.runner, options.criu_path, config, container.runtime) as path:
        done = checkpoint_command(Podman(podman.runner, path), container, options.arguments(partial))
        if done.rc != 0:
            error = podman.runner.failure(done, criu_errors(container.userdata / "dump.log"))
            raise brought_back(Podman(podman.runner, path), options, error)
    timings.update({"podman": done.seconds, **statistics(done.stdout)})
    _freeze.write_records(container, frozen)
    if partial:
        return {}
    contents = _archive.read_in_place(container)
    return {"location": str(container.userdata / "checkpoint"), "size": sum(contents.parts.values()), "parts": contents.parts}


def checkpoint_command(podman: Podman, container: Container, arguments: list[str]) -> Result:
    """Run podman; try again where a client was just connecting or leaving, which CRIU refuses and which soon passes."""
    for attempt in range(3):
        time.sleep(0.5 * attempt)
        done = podman.run(*arguments, check=False)
        if done.rc == 0 or "In-flight connection" not in done.output + criu_errors(container.userdata / "dump.log"):
            break
    return done


@contextlib.contextmanager
def set_aside(container: Container) -> Iterator[None]:
    """Keep the last good checkpoint in place out of the way of the new dump, and put it back if that fails."""
    current, previous = container.userdata / "checkpoint", container.userdata / "checkpoint.previous"
    if container.has_checkpoint():
        shutil.rmtree(previous, ignore_errors=True)
        current.rename(previous)
    try:
        yield
    except BaseException:
        if previous.exists() or not container.has_checkpoint():  # complete images may be the only way back
            shutil.rmtree(current, ignore_errors=True)
        if previous.exists():
            previous.rename(current)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def prepare_archive(archive: Path, compress: str) -> Path:
    """Make the archive's folder (0700) and name the file beside it that podman is to write."""
    if compress == "zstd":
        _archive.require_zstd()
    if archive.is_dir():
        raise WarmstartError("bad_input", f"archive is a folder: {archive}. Name a file in it.")
    for folder in [*reversed(archive.parent.parents), archive.parent]:
        folder.mkdir(mode=0o700, exist_ok=True)
    if _golden.manifest_path(archive).exists() and _golden.read_manifest(archive) is None:
        raise WarmstartError("archive_exists", f"{_golden.manifest_path(archive)} belongs to another archive than {archive.name}.")
    return archive.with_name(f".{archive.name}.partial")


def finish_archive(
    podman: Podman, container: Container, options: Options, partial: Path, frozen: _freeze.Frozen, timings: dict, engine: dict
) -> dict:
    """Verify what podman wrote, give it its final name, and write its manifest."""
    os.chmod(partial, 0o600)
    started = time.monotonic()
    contents = _archive.read_archive(partial)
    described = _golden.describe(partial, options.archive.name)
    timings["verify"] = time.monotonic() - started
    host = _fingerprint.host_facts(podman, Criu(podman.runner, options.criu_path))
    manifest = {
        "schema": _manifest.SCHEMA,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds"),
        "class": _fingerprint.class_of(host),
        "host": host,
        "engine": engine,
        "model": options.model,
        "oracle": options.oracle,
        "container": {**contents.summary(), "image_digest": container.facts.get("ImageDigest") or None},
        "archive": {**described, "compression": contents.compression, "parts": contents.parts},
        "gpu": frozen.record(),
        "timings": dict(timings),
        "metadata": options.metadata or {},
    }
    _manifest.checked(manifest, "The manifest to be written")
    partial.replace(options.archive)
    _signature.signature_path(_golden.manifest_path(options.archive)).unlink(missing_ok=True)  # of what was here before
    _golden.write_manifest(options.archive, manifest)
    return {"location": str(options.archive), "size": manifest["archive"]["size"], "parts": contents.parts, "manifest": manifest}


def brought_back(podman: Podman, options: Options, error: WarmstartError) -> WarmstartError:
    """See to it that the container serves after a failed checkpoint, and say in the error which state it is in.

    CRIU resumes the processes itself when a dump fails. When the dump worked and the export failed (a full disk), they
    are gone, and the images in place bring them back.
    """
    container = podman.get(options.name)
    if not container.running and container.has_checkpoint():
        flags = ["--tcp-established"] if options.tcp_established else []
        podman.run("container", "restore", *flags, options.name, check=False)
        container = podman.get(options.name)
    error.facts["container_state"] = container.state["Status"]
    error.detail = f"{error.detail} The container is {container.state['Status']}."
    return error


def dumped_bytes(pid: int) -> int:
    """About how much CRIU will write: anonymous and shared memory of the processes of the container whose first is `pid`."""
    total = 0
    for process in cgroup_pids(pid):
        try:
            status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
        except OSError:
            continue  # it ended meanwhile
        for line in status.splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


def require_space(folder: Path, needed: int) -> None:
    free = os.statvfs(folder)
    available = free.f_bavail * free.f_frsize
    if available < needed:
        raise WarmstartError("disk_full", f"{folder} has {available >> 20} MiB free, the checkpoint takes about {needed >> 20} MiB.")
