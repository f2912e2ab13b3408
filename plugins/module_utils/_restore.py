# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore a container, in place or from an archive, and probe it to its first token; cold start it where that fails.

Touches the container of that name and nothing else. What a checkpoint is and how it is taken is in _checkpoint.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils import _archive, _cuda, _engine, _findings, _freeze, _golden
from ansible_collections.gpufleet.warmstart.plugins.module_utils._criu import criu_environment
from ansible_collections.gpufleet.warmstart.plugins.module_utils._memory import huge_pages, warm_up
from ansible_collections.gpufleet.warmstart.plugins.module_utils._podman import (
    Container,
    Podman,
    criu_errors,
    declaration_digest,
    statistics,
)
from ansible_collections.gpufleet.warmstart.plugins.module_utils._probe import Probe
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError
from ansible_collections.gpufleet.warmstart.plugins.module_utils._server import (
    cold_start,
    probe_timings,
    published_ports,
    remove,
    require_free_ports,
    still_serving,
    stop,
)
from ansible_collections.gpufleet.warmstart.plugins.module_utils._unpack import unpacked

FLAGS = ("keep", "tcp_established", "tcp_close", "ignore_static_ip", "ignore_static_mac", "ignore_rootfs", "ignore_volumes", "print_stats")


@dataclass(frozen=True)
class Options:
    """What podman_restore was asked for; see the module's documentation for each."""

    name: str
    archive: Path | None = None
    keep: bool = True
    publish: tuple[str, ...] = ()
    replace: bool = False
    tcp_established: bool = False
    tcp_close: bool = False
    ignore_static_ip: bool = False
    ignore_static_mac: bool = False
    ignore_rootfs: bool = False
    ignore_volumes: bool = False
    print_stats: bool = True
    criu_path: str | None = None
    criu_config: dict | None = None
    fallback: dict | None = None
    gpu_map: dict | None = None
    thp: str = "always"
    allowed_signers: str | None = None
    check_oracle: bool = True
    expect: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.tcp_established and self.tcp_close:
            raise WarmstartError("bad_input", "tcp_established keeps the open connections and tcp_close closes them: choose one.")
        if self.archive and self.tcp_established:
            raise WarmstartError(
                "bad_input",
                "podman refuses tcp_established together with a name, and a restore from an archive is given one: use tcp_close.",
            )
        if self.archive:
            return
        for option in ("publish", "ignore_rootfs", "ignore_volumes", "replace", "allowed_signers", "expect"):
            if getattr(self, option):
                raise WarmstartError("bad_input", f"{option} needs archive: podman refuses it for a restore in place.")

    def arguments(self) -> list[str]:
        arguments = ["container", "restore", *("--" + flag.replace("_", "-") for flag in FLAGS if getattr(self, flag))]
        if not self.archive:
            return [*arguments, self.name]
        for entry in self.publish:
            arguments += ["--publish", entry]
        return [*arguments, "--import", str(self.archive), "--name", self.name]


@dataclass(frozen=True)
class Plan:
    """What a look at the host, without touching it, says is to be done."""

    identity: str | None  # of the archive (_golden.identity)
    ports: list[tuple[str, int]]  # address and port that the restored server publishes
    runtime: str  # that the checkpoint was taken with
    serving: bool  # the container already runs, from this checkpoint
    files: tuple[Path, ...] = ()  # that the restore will read
    frozen: _freeze.Frozen = _freeze.NOT_FROZEN  # how its GPU processes were suspended
    oracle: dict | None = None  # what the server answered before (manifest)


def plan(podman: Podman, options: Options, holder: Container | None) -> Plan:
    """Look at the checkpoint and at `holder`, the container that has the name.

    Raises archive_missing, archive_corrupt, checkpoint_missing, image_missing, name_in_use, signature_*, unexpected_*.
    """
    if not options.archive:
        if holder and holder.running:
            return Plan(None, [], holder.runtime, serving=True)
        if holder is None or not holder.has_checkpoint():
            raise WarmstartError("checkpoint_missing", f"{options.name} has no checkpoint in place on this host.")
        return Plan(
            None,
            holder.published(),
            holder.runtime,
            False,
            holder.page_files(),
            _freeze.read_record(_freeze.checkpoint_record_path(holder)),
        )
    if not options.archive.is_file():
        raise WarmstartError("archive_missing", f"There is no file {options.archive}.")
    manifest = read_manifest(podman, options)
    identity = _golden.identity(options.archive, manifest)
    if holder and holder.running and serves(options, holder, identity):
        return Plan(identity, [], holder.runtime, serving=True)
    if holder and not options.replace:
        raise WarmstartError("name_in_use", f"{options.name} is {holder.state['Status']} and was not restored from {options.archive}.")
    if manifest:
        _golden.verify(options.archive, manifest["archive"])
    contents = _archive.read_archive(options.archive)
    signed = options.allowed_signers is not None
    _findings.require_expected(contents.findings(), manifest, signed, options.fallback, options.expect)
    summary = contents.summary()
    podman.require_image(summary["image"], summary["image_id"])
    ports = published_ports(options.publish) or [(port["host_ip"], port["host_port"]) for port in summary["ports"]]
    frozen = _freeze.Frozen.from_record((manifest or {}).get("gpu"))
    oracle = manifest["oracle"] if manifest and options.check_oracle else None
    return Plan(identity, ports, summary["runtime"], False, (options.archive,), frozen, oracle)


def read_manifest(podman: Podman, options: Options) -> dict | None:
    """The archive's manifest, with its signature verified where signers are named; nothing else was read before."""
    if options.allowed_signers is None:
        return _golden.read_manifest(options.archive)
    return _golden.read_signed(podman.runner, options.archive, options.allowed_signers)


def serves(options: Options, holder: Container, identity: str) -> bool:
    """Whether the running `holder` is what was asked for: restored from this archive, or cold started in its stead."""
    if _golden.was_restored_from(holder.id, identity):
        return True
    return not options.replace and options.fallback is not None and holder.declaration == declaration_digest(options.fallback)


def restore(podman: Podman, options: Options, probe: Probe | None, check_mode: bool = False) -> dict:
    """Restore as planned; `path_taken` is running, in_place, archive or cold_start, with `reason` where a restore failed.

    The clock of `timings` runs from the restore command to the first token. Raises WarmstartError if neither the restore
    nor the fallback serves; then what held the name before holds it again, and runs if it ran.
    """
    owed = not check_mode and mend(podman, options.name)
    holder = podman.inspect(options.name)
    try:
        planned = plan(podman, options, holder)
        if planned.serving:
            return {"container_id": holder.id, **go_on(podman, options, holder, probe, check_mode)}
    except WarmstartError as error:
        if not may_fall_back(options, holder):
            raise
        return fall_back(podman, options, probe, error, owed, check_mode)
    if check_mode:
        return {"changed": True, "path_taken": "archive" if options.archive else "in_place", "timings": {}}
    with standing_aside(podman, options.name, holder if options.archive else None, owed):
        try:
            return {"changed": True, **restore_now(podman, options, planned, probe)}
        except WarmstartError as error:
            if options.fallback is None:
                raise
            return fall_back(podman, options, probe, error, owed)


def mend(podman: Podman, name: str) -> bool:
    """Give back a name that a killed run took from its container; returns whether that container ran before.

    A container that runs in its place is what that run wanted, and has it now; one that does not run was half restored.
    """
    for aside in podman.names(f"^{re.escape(name)}-aside-[0-9a-f]{{12}}$"):
        holder = podman.inspect(name)
        if holder and holder.running:
            remove(podman, aside)
            continue
        if holder:
            remove(podman, name)
        podman.rename(aside, name)
        return True
    return False


def may_fall_back(options: Options, holder: Container | None) -> bool:
    """A cold start may take the name if nobody has it, if it failed to restore in place, or if it is to be replaced."""
    return options.fallback is not None and (holder is None or options.replace or not (holder.running or options.archive))


def fall_back(podman: Podman, options: Options, probe: Probe | None, error: WarmstartError, owed: bool, check_mode: bool = False) -> dict:
    """Cold start under the same name; the container that failed to restore goes only once the new one serves."""
    told = {"changed": True, "path_taken": "cold_start", **error.as_result()}
    if check_mode:
        return {**told, "timings": {}}
    with standing_aside(podman, options.name, podman.inspect(options.name), owed):
        try:
            return {**told, **cold_start(podman, options.name, options.fallback, probe)}
        except WarmstartError as second:
            second.facts["restore_reason"] = error.reason.code
            second.detail = f"{second.detail} Before that, the restore failed: {error}"
            raise


@contextlib.contextmanager
def standing_aside(podman: Podman, name: str, container: Container | None, owed: bool) -> Iterator[None]:
    """Free the name of `container`; it is removed after success.

    After failure it has its name again, and runs if it did, or if that is owed.
    """
    if container is None:
        yield
        return
    if container.running:
        stop(podman, container.id)
    podman.rename(container.id, f"{name}-aside-{container.id[:12]}")
    try:
        yield
    except BaseException:
        podman.rename(container.id, name)
        if container.running or owed:
            podman.run("container", "start", container.id)
        raise
    remove(podman, container.id)


def go_on(podman: Podman, options: Options, holder: Container, probe: Probe | None, check_mode: bool) -> dict:
    """The container runs from this checkpoint: probe it, after a resume if its GPU processes are suspended."""
    if not _freeze.is_suspended(holder):
        return {"changed": False, "path_taken": "running", **still_serving(probe)}
    if check_mode:
        return {"changed": True, "path_taken": "resume", "timings": {}}
    return {
        "changed": True,
        "path_taken": "resume",
        **resume(podman, holder, _freeze.read_record(_freeze.record_path(holder)), options.gpu_map, probe),
    }


def resume(podman: Podman, container: Container, frozen: _freeze.Frozen, gpu_map: dict | None, probe: Probe | None) -> dict:
    """Resume and wake a suspended container, and probe it, on one clock."""
    started = time.monotonic()
    timings, _changed = _freeze.thaw(podman.runner, container, frozen, gpu_map)
    answer = probe.run(started) if probe else {}
    return {"probe": answer, "timings": probe_timings({"podman": 0.0, **timings}, answer, started)}


def restore_now(podman: Podman, options: Options, planned: Plan, probe: Probe | None) -> dict:
    require_free_ports(planned.ports, probe)
    if planned.frozen.method == "driver_api":
        _cuda.Cuda.preload()  # 0.2 s that pass while podman restores
    if _engine.own_connections(planned.frozen.engine) and not options.tcp_close:
        # podman restores them under the old name only
        options = dataclasses.replace(options, **{"tcp_close" if options.archive else "tcp_established": True})
    storage = podman.storage() if options.archive else None
    unpacking = time.monotonic()
    with contextlib.ExitStack() as stack:
        config = {**planned.frozen.criu_config(), **(options.criu_config or {})}
        if options.archive:
            archive, linking = stack.enter_context(unpacked(options.archive, planned.identity, storage))
            options = dataclasses.replace(options, archive=archive)
            config = {**config, **{name: values + listed(config.get(name)) for name, values in linking.items()}}
        unpack = time.monotonic() - unpacking
        path = stack.enter_context(criu_environment(podman.runner, options.criu_path, config, planned.runtime))
        started = time.monotonic() - unpack
        warm_up(planned.files)
        with huge_pages() if options.thp == "always" else contextlib.nullcontext():
            done = Podman(podman.runner, path).run(*options.arguments(), check=False)
        try:
            if done.rc != 0:
                raise podman.runner.failure(done, restore_log(podman, options.name))
            timings = {**({"unpack": unpack} if options.archive else {}), "podman": done.seconds, **statistics(done.stdout)}
            if planned.frozen.method != "none":
                timings.update(_freeze.thaw(podman.runner, podman.get(options.name), planned.frozen, options.gpu_map)[0])
            answer = probe.run(started) if probe else {}
            require_same_answer(planned.oracle, answer, probe)
        except WarmstartError:
            undo(podman, options)
            raise
    timings = probe_timings(timings, answer, started)
    container = podman.get(options.name)
    _freeze.write_records(container, planned.frozen)
    if options.archive:
        _golden.note_restored(container.id, planned.identity)
    return {
        "path_taken": "archive" if options.archive else "in_place",
        "container_id": container.id,
        "probe": answer,
        "timings": timings,
    }


def require_same_answer(oracle: dict | None, answer: dict, probe: Probe | None) -> None:
    """Refuse a restored server whose greedy answer to the same prompt is another one than before the checkpoint.

    Texts are compared, as far as the shorter goes: tokens come in chunks of any size, and the probe may ask for fewer.
    """
    if not oracle or not answer.get("tokens") or probe.prompt != oracle["prompt"]:
        return
    before, now = "".join(oracle["tokens"]), "".join(answer["tokens"])
    if not (before.startswith(now) or now.startswith(before)):
        raise WarmstartError("oracle_mismatch", f"It answers {now[:60]!r}, and before the checkpoint {before[:60]!r}.")


def listed(value) -> list:
    """The value of a CRIU option that may be given several times, as a list."""
    return value if isinstance(value, list) else [value] if value else []


def restore_log(podman: Podman, name: str) -> str:
    container = podman.inspect(name)
    return criu_errors(container.userdata / "restore.log") if container else ""


def undo(podman: Podman, options: Options) -> None:
    """Leave no half-restored container: an import is removed, a container in place is stopped with its images kept."""
    if options.archive:
        remove(podman, options.name)
    elif podman.get(options.name).running:
        stop(podman, options.name)
