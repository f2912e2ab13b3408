# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Freeze a served model without ending its process, and thaw it: the engine sleeps, then its CUDA processes are suspended.

Touches the engine (by HTTP) and the container's CUDA processes. podman_suspend is this alone; _checkpoint.py freezes before
the dump and _restore.py thaws after the restore. On a host without NVIDIA's driver nothing happens and nothing is asked.
The engine is in _engine.py, the CUDA calls are in _cuda.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils import _cuda, _engine
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._golden import write_atomically
from ansible_collections.gpufleet.warmstart.plugins.module_utils._gpu import gpu_facts, gpu_map, has_driver
from ansible_collections.gpufleet.warmstart.plugins.module_utils._gpu_method import api_for, pick_method, plugin_path
from ansible_collections.gpufleet.warmstart.plugins.module_utils._memory import huge_pages
from ansible_collections.gpufleet.warmstart.plugins.module_utils._podman import Container
from ansible_collections.gpufleet.warmstart.plugins.module_utils._process import cgroup_pids, leftover_devices
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

METHODS = ("auto", "driver_api", "cuda_checkpoint", "criu_plugin", "none")


@dataclass(frozen=True)
class Frozen:
    """How a container was frozen, as it is kept in the manifest and beside a checkpoint in place.

    method: driver_api, cuda_checkpoint, criu_plugin or none. gpu_memory: bytes by GPU that a resume needs. gpus: as in
    _gpu.gpu_facts. engine and url: whom to wake, after a sleep of `sleep_level` (0: it did not sleep).
    """

    method: str = "none"
    gpu_memory: dict = field(default_factory=dict)
    gpus: list = field(default_factory=list)
    engine: str = ""
    url: str = ""
    sleep_level: int = 0

    @classmethod
    def from_record(cls, record: dict | None) -> Frozen:
        return cls(**record) if record else cls()

    def record(self) -> dict:
        return asdict(self)

    def criu_config(self) -> dict:
        """Keeps CRIU's CUDA plugin out of a dump or restore of processes that were suspended from outside: never both."""
        outside = self.method in ("driver_api", "cuda_checkpoint") and plugin_path() and shutil.which("cuda-checkpoint")
        return {"libdir": "/var/empty"} if outside else {}


NOT_FROZEN = Frozen()


def record_path(container: Container) -> Path:
    """Where it is kept how the container was frozen; podman removes it with the container."""
    return container.userdata / "warmstart.json"


def checkpoint_record_path(container: Container) -> Path:
    """The same for its checkpoint in place, which may have been taken in another way; it lives and goes with the images."""
    return container.userdata / "checkpoint" / "warmstart.json"


def read_record(path: Path) -> Frozen:
    try:
        return Frozen.from_record(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return Frozen()


def write_records(container: Container, frozen: Frozen) -> None:
    """Keep how the container was frozen, for its resume and, if its images lie in place, for their restore."""
    write_atomically(record_path(container), json.dumps(frozen.record()))
    if container.has_checkpoint():
        write_atomically(checkpoint_record_path(container), json.dumps(frozen.record()))


def freeze(
    runner: Runner, container: Container, method: str = "auto", sleep_level: int = 1, lock_timeout: float = 10.0
) -> tuple[Frozen, dict[str, float], bool]:
    """Put the engine to sleep and suspend the container's CUDA processes.

    Returns how, the seconds of engine_sleep and suspend, and whether anything changed. After a failure the server goes on
    as before. With CRIU's plugin the engine sleeps, and the suspend is left to CRIU.
    """
    if not has_driver() or method == "none":
        return Frozen(engine=container.engine[0]), {}, False
    engine, url = container.engine
    pids = cgroup_pids(container.pid)
    facts = gpu_facts()
    picked = pick_method(method, facts)
    api = api_for(picked["method"], runner, picked["why"]) if picked["method"] in ("driver_api", "cuda_checkpoint") else None
    states = _cuda.states(pids, api)
    if not states:
        return Frozen(engine=engine), {}, False
    if _cuda.overall(states) == "suspended":
        return read_record(record_path(container)), {}, False
    if _cuda.overall(states) == "half_done":
        _cuda.mend(pids, api)
    timings: dict[str, float] = {}
    level = 0
    try:
        with huge_pages():  # for the memory that the engine pins in its sleep, too: every resume pins it again
            if engine and sleep_level:
                timings["engine_sleep"] = _engine.sleep(engine, url, sleep_level)
                level = sleep_level if timings["engine_sleep"] else 0
            frozen = Frozen(picked["method"], {}, facts["gpus"], engine, url, level)
            # before the suspend, so that the next run can mend what a killed one left
            write_atomically(record_path(container), json.dumps(frozen.record()))
            if api:
                done = _cuda.suspend(pids, lock_timeout, api)
                timings.update(done["timings"])
                frozen = Frozen(**{**frozen.record(), "gpu_memory": done["gpu_memory"]})
    except WarmstartError:
        if level:
            with contextlib.suppress(WarmstartError):
                _engine.wake(engine, url, level)
        raise
    write_atomically(record_path(container), json.dumps(frozen.record()))
    return frozen, timings, True


def thaw(runner: Runner, container: Container, frozen: Frozen, wanted_map: dict | None = None) -> tuple[dict[str, float], bool]:
    """Resume the container's CUDA processes, on other GPUs of the same chip where need be, and wake the engine.

    Returns the seconds of resume and engine_wake, and whether anything changed. On failure the processes stay suspended.
    """
    timings: dict[str, float] = {}
    changed = False
    if frozen.method != "criu_plugin":
        method = pick_method()["method"] if frozen.method == "none" else frozen.method
        pairs = gpu_map(frozen.gpus, gpu_facts()["gpus"], wanted_map or "auto", frozen.gpu_memory)
        with huge_pages():
            done = _cuda.resume(cgroup_pids(container.pid), pairs, frozen.gpu_memory, api_for(method, runner))
        timings, changed = dict(done["timings"]), done["changed"]
    if frozen.sleep_level and (changed or frozen.method == "criu_plugin"):
        timings["engine_wake"] = _engine.wake(frozen.engine, frozen.url, frozen.sleep_level)
        changed = True
    return timings, changed


def is_suspended(container: Container) -> bool:
    """Whether the container's CUDA processes are suspended, so that a thaw and no restore brings it back."""
    if not (has_driver() and container.running) or read_record(record_path(container)).method in ("none", "criu_plugin"):
        return False
    return _cuda.overall(_cuda.states(cgroup_pids(container.pid))) in ("suspended", "half_done")


def prepare_to_end(runner: Runner, container: Container) -> bool:
    """Suspend before a running container is stopped: killing a restored CUDA process hangs the host on some drivers.

    NVIDIA/cuda-checkpoint#53. It is going away, so it sleeps as deep as it can, and a failure stops nobody. Returns whether
    it is suspended: then its processes wait for the GPU, cannot end by themselves, and are to be killed at once.
    """
    if not (has_driver() and container.running):
        return False
    with contextlib.suppress(WarmstartError):
        pids, (engine, url) = cgroup_pids(container.pid), container.engine
        if engine and _cuda.overall(_cuda.states(pids)) == "running":
            with contextlib.suppress(WarmstartError):
                _engine.sleep(engine, url, max(_engine.ENGINES[engine].levels, default=1), timeout=10.0)
        freeze(runner, container, sleep_level=0, lock_timeout=5.0)
        return _cuda.overall(_cuda.states(pids)) == "suspended"
    return False


def holds_unlinked_semaphores(container: Container) -> bool:
    """Whether a process uses a POSIX semaphore whose name is gone, as Python's multiprocessing does."""
    for pid in cgroup_pids(container.pid):
        with contextlib.suppress(OSError):
            if re.search(r"/sem\.[^/]* \(deleted\)$", Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace"), re.M):
                return True
    return False


def require_dumpable(container: Container) -> None:
    """Refuse a process that holds an NVIDIA device after its suspend: CRIU could not dump it."""
    held = leftover_devices(cgroup_pids(container.pid)) if has_driver() else {}
    if held:
        listed = "; ".join(f"process {pid}: {', '.join(paths)}" for pid, paths in held.items())
        raise WarmstartError("device_left_open", f"After the suspend, {listed}.")
