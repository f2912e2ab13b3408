# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Suspend and resume the CUDA processes of a container: GPU memory to host memory and back, through the CUDA driver API.

Touches the processes it is given and their claims (_process.py, which also finds a container's processes). GPU facts are
in _gpu.py; which method a host has is chosen in _gpu_method.py.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._gpu import Nvml, has_driver, open_library, uuid_bytes
from ansible_collections.gpufleet.warmstart.plugins.module_utils._process import Claims, hold_gpu
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

STATES = ("running", "locked", "checkpointed", "failed")
FUNCTIONS = ("GetState", "Lock", "Checkpoint", "Restore", "Unlock", "GetRestoreThreadId")
# A restore with 2 MB to spare ran out of memory (H100, driver 580), restores of 0.6 and 4.6 GB with 64 MB to spare did not.
SPARE_MEMORY = 64 * 2**20  # for each process
GPU_MAP_VERSION = 13000  # cuDriverGetVersion of the first driver with CUcheckpointGpuPair

# CUresult of any call -> reason; a lock's NOT_READY is its timeout. Other numbers are cuda_call_failed.
ERROR_REASONS = {
    36: "driver_too_old",
    100: "no_gpu",
    600: "lock_timeout",
    801: "cuda_unsupported",
    803: "driver_mismatch",
}
_LOADING = threading.Lock()
# OUT_OF_MEMORY of a restore, and OPERATING_SYSTEM of every later one: the process cannot be brought back any more
LOST = (2, 304)
NOT_CUDA = (1, 3)  # INVALID_VALUE, NOT_INITIALIZED: what GetState answers for a process without CUDA


class _LockArgs(ctypes.Structure):
    _fields_ = [("timeout_ms", ctypes.c_uint), ("reserved0", ctypes.c_uint), ("reserved1", ctypes.c_uint64 * 7)]


class _GpuPair(ctypes.Structure):
    _fields_ = [("old", ctypes.c_ubyte * 16), ("new", ctypes.c_ubyte * 16)]


class _RestoreArgs(ctypes.Structure):
    # cuda.h 13; the whole structure is reserved, and so zero, in 12.8
    _fields_ = [
        ("pairs", ctypes.POINTER(_GpuPair)),
        ("count", ctypes.c_uint),
        ("reserved", ctypes.c_char * (52 - ctypes.sizeof(ctypes.c_void_p))),
        ("reserved1", ctypes.c_uint64),
    ]


class Cuda:
    """The driver's checkpoint functions; open it with Cuda.load(), which calls cuInit once for each call of a module."""

    method = "driver_api"

    def __init__(self, library: ctypes.CDLL):
        self.library = library
        missing = [name for name in FUNCTIONS if not hasattr(library, f"cuCheckpointProcess{name}")]
        if missing:
            raise WarmstartError("cuda_symbols_missing", f"Missing: {', '.join(f'cuCheckpointProcess{name}' for name in missing)}.")
        self._check("cuInit", self.library.cuInit(0))
        version = ctypes.c_int()
        self._check("cuDriverGetVersion", self.library.cuDriverGetVersion(ctypes.byref(version)))
        self.version = version.value

    @staticmethod
    def load() -> Cuda:
        with _LOADING:
            return _load_cuda()

    @staticmethod
    def preload() -> None:
        """Begin to load in the background (0.2 s on an idle GPU); load() waits for it and raises what went wrong."""

        def work() -> None:
            for load in (Cuda.load, Nvml.load):
                with suppress(WarmstartError):
                    load()

        threading.Thread(target=work, daemon=True).start()

    def _check(self, call: str, code: int, pid: int = 0) -> None:
        if code == 0:
            return
        name, text = ctypes.c_char_p(), ctypes.c_char_p()
        self.library.cuGetErrorName(code, ctypes.byref(name))
        self.library.cuGetErrorString(code, ctypes.byref(text))
        error = (name.value or b"an unknown error").decode()
        where = f" of process {pid}" if pid else ""
        detail = f"{call}{where}: {error} ({code}), {(text.value or b'').decode()}."
        reason = ERROR_REASONS.get(code, "cuda_call_failed")
        if call == "cuCheckpointProcessRestore" and code in LOST:
            reason = "cuda_failed_state"
        if pid and not Path(f"/proc/{pid}").exists():
            reason = "process_died"
        raise WarmstartError(reason, detail, cuda_error=error)

    def _call(self, name: str, pid: int, args=None) -> None:
        function = getattr(self.library, f"cuCheckpointProcess{name}")
        self._check(f"cuCheckpointProcess{name}", function(pid, ctypes.byref(args) if args else None), pid)

    def state(self, pid: int) -> str | None:
        """One of STATES, or None for a process without CUDA."""
        state = ctypes.c_int()
        code = self.library.cuCheckpointProcessGetState(pid, ctypes.byref(state))
        if code in NOT_CUDA or (code and not Path(f"/proc/{pid}").exists()):
            return None
        self._check("cuCheckpointProcessGetState", code, pid)
        return STATES[state.value]

    def lock(self, pid: int, timeout: float) -> None:
        # the driver takes 0 for "wait for ever"
        self._call("Lock", pid, _LockArgs(timeout_ms=max(1, int(timeout * 1000))))

    def checkpoint(self, pid: int) -> None:
        self._call("Checkpoint", pid)

    def restore(self, pid: int, gpu_map: dict[str, str] | None = None) -> None:
        if not gpu_map:
            return self._call("Restore", pid)
        if self.version < GPU_MAP_VERSION:
            raise WarmstartError(
                "driver_too_old", f"A restore on another GPU needs driver 580; this one speaks CUDA {self.version // 1000}."
            )
        pairs = (_GpuPair * len(gpu_map))()
        for pair, (old, new) in zip(pairs, gpu_map.items()):
            pair.old[:], pair.new[:] = uuid_bytes(old), uuid_bytes(new)
        return self._call("Restore", pid, _RestoreArgs(pairs=pairs, count=len(pairs)))

    def unlock(self, pid: int) -> None:
        self._call("Unlock", pid)

    def restore_thread(self, pid: int) -> int:
        thread, name = ctypes.c_int(), "cuCheckpointProcessGetRestoreThreadId"
        self._check(name, getattr(self.library, name)(pid, ctypes.byref(thread)), pid)
        return thread.value


@functools.lru_cache(maxsize=1)
def _load_cuda() -> Cuda:
    library = open_library("libcuda.so.1")
    if library is None:
        raise WarmstartError("cuda_library_missing" if has_driver() else "no_gpu", "libcuda.so.1 was not found.")
    return Cuda(library)


class CudaCheckpoint:
    """The same calls through NVIDIA's cuda-checkpoint binary, for drivers before 570."""

    method = "cuda_checkpoint"

    def __init__(self, runner: Runner, path: str = "cuda-checkpoint"):
        self.runner, self.path = runner, path

    def _action(self, action: str, pid: int, *options: str) -> None:
        result = self.runner.run(self.path, "--action", action, "--pid", str(pid), *options, check=False)
        if result.rc:
            died = not Path(f"/proc/{pid}").exists()
            raise WarmstartError("process_died" if died else "cuda_call_failed", f"{action} of process {pid}: {result.output}")

    def state(self, pid: int) -> str | None:
        result = self.runner.run(self.path, "--get-state", "--pid", str(pid), check=False)
        word = result.stdout.strip()
        return word if result.rc == 0 and word in STATES else None

    def lock(self, pid: int, timeout: float) -> None:
        self._action("lock", pid, "--timeout", str(max(1, int(timeout * 1000))))

    def checkpoint(self, pid: int) -> None:
        self._action("checkpoint", pid)

    def restore(self, pid: int, gpu_map: dict[str, str] | None = None) -> None:
        if gpu_map:
            raise WarmstartError("driver_too_old", "A restore on another GPU needs the driver API of driver 580.")
        self._action("restore", pid)

    def unlock(self, pid: int) -> None:
        self._action("unlock", pid)


def states(pids, api=None) -> dict[int, str]:
    """The state of those of `pids` that use CUDA."""
    api = api or Cuda.load()
    found = _each(list(pids), api.state)
    return {pid: state for pid, state in found.items() if state}


def overall(found: dict[int, str]) -> str:
    """running, suspended, failed, half_done (a run died in between), or none where no process uses CUDA."""
    kinds = set(found.values())
    if "failed" in kinds:
        return "failed"
    if len(kinds) > 1 or "locked" in kinds:
        return "half_done"
    return {"running": "running", "checkpointed": "suspended"}[kinds.pop()] if kinds else "none"


def listed(found: dict[int, str]) -> list[dict]:
    """`found` as modules return it."""
    return [{"pid": pid, "state": state} for pid, state in sorted(found.items())]


def suspend(pids, lock_timeout: float = 10.0, api=None) -> dict:
    """Lock all CUDA processes of `pids`, then checkpoint all; on any failure they go on running as before.

    Returns changed, states, gpu_memory (bytes by GPU that a resume will need; keep it in a manifest) and timings.
    """
    api = api or Cuda.load()
    began = time.monotonic()
    with Claims(states(pids, api)) as claims:
        found = _usable(states(claims, api))
        memory = {pid: claims.read(pid) for pid in found}
        if overall(found) in ("suspended", "none"):
            return _result(False, found, _total(memory), {})
        memory.update(_process_memory(pid for pid in found if found[pid] != "checkpointed"))
        for pid, need in memory.items():
            claims.write(pid, need)
        try:
            locked = time.monotonic()
            _each([pid for pid in found if found[pid] == "running"], lambda pid: api.lock(pid, lock_timeout))
            dumped = time.monotonic()
            _each([pid for pid in found if found[pid] != "checkpointed"], api.checkpoint)
        except BaseException as error:
            facts = error.facts if isinstance(error, WarmstartError) else {}
            try:
                _bring_back(api, claims)
            except WarmstartError as second:
                facts["went_back"] = str(second)
            facts["processes"] = listed(states(claims, api))
            raise
        done = time.monotonic()
        timings = {"lock": dumped - locked, "cuda_checkpoint": done - dumped, "suspend": done - began}
        return _result(True, states(claims, api), _total(memory), timings)


def resume(pids, gpu_map: dict[str, str] | None = None, needed: dict[str, int] | None = None, api=None) -> dict:
    """Restore and unlock all CUDA processes of `pids`; on any failure they stay suspended.

    `gpu_map` pairs old and new UUIDs (see _gpu.gpu_map). `needed` are the bytes by (old) GPU from the manifest, used where
    this host did not suspend the processes itself. Free memory is checked first: a restore that runs out of GPU memory
    loses the process for good.
    """
    api = api or Cuda.load()
    began = time.monotonic()
    with Claims(states(pids, api)) as claims:
        found = _usable(states(claims, api))
        if overall(found) in ("running", "none"):
            for pid in found:
                claims.drop(pid)
            return _result(False, found, {}, {})
        timings = _bring_back(api, claims, gpu_map, needed)
        return _result(True, states(claims, api), {}, {**timings, "resume": time.monotonic() - began})


def mend(pids, api=None) -> dict[int, str]:
    """Bring processes that a dead run left half done back to running; returns the states it found, empty if all was well."""
    api = api or Cuda.load()
    found = states(pids, api)
    if overall(found) != "half_done":
        return {}
    resume(pids, api=api)
    return found


def _bring_back(api, claims: Claims, gpu_map: dict[str, str] | None = None, needed: dict[str, int] | None = None) -> dict[str, float]:
    """Restore what is checkpointed, then unlock all; a process goes on only when all are restored, else none stays locked."""
    found = states(claims, api)
    away = [pid for pid in found if found[pid] == "checkpointed"]
    try:
        with ExitStack() as stack:
            if away:
                _reserve(stack, {pid: claims.read(pid) for pid in away}, gpu_map or {}, needed)
            began = time.monotonic()
            _each(away, lambda pid: api.restore(pid, gpu_map))
            restored = time.monotonic()
        _each([pid for pid in found if found[pid] != "running"], api.unlock)
    except BaseException as error:
        with suppress(WarmstartError):
            _each([pid for pid, state in states(claims, api).items() if state == "locked"], api.checkpoint)
        if isinstance(error, WarmstartError):
            error.facts["processes"] = listed(states(claims, api))
        raise
    for pid in found:
        claims.drop(pid)
    return {"cuda_restore": restored - began, "unlock": time.monotonic() - restored}


def _reserve(stack: ExitStack, memory: dict[int, dict[str, int]], gpu_map: dict[str, str], needed: dict[str, int] | None) -> None:
    """Check that the GPUs have the bytes needed free, and hold their locks so that no other resume takes them first."""
    total = _total(memory) if all(memory.values()) else (needed or _total(memory))
    want = {gpu_map.get(gpu, gpu): size + SPARE_MEMORY * len(memory) for gpu, size in total.items()}
    for gpu in sorted(want):
        hold_gpu(stack, gpu)
    if not want:
        return
    here = Nvml.load().memory()
    for gpu, size in want.items():
        if gpu not in here:
            raise WarmstartError("gpu_mismatch", f"There is no GPU {gpu} here.")
        if here[gpu]["free"] < size:
            free = here[gpu]["free"]
            raise WarmstartError("gpu_memory", f"{gpu} has {free} bytes free, {size} are needed.", needed=want, free=free)


def _process_memory(pids) -> dict[int, dict[str, int]]:
    pids = set(pids)
    return {**{pid: {} for pid in pids}, **Nvml.load().process_memory(pids)}


def _total(memory: dict[int, dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for need in memory.values():
        for gpu, size in need.items():
            total[gpu] = total.get(gpu, 0) + size
    return total


def _usable(found: dict[int, str]) -> dict[int, str]:
    lost = [pid for pid, state in found.items() if state == "failed"]
    if lost:
        raise WarmstartError("cuda_failed_state", f"Processes {', '.join(map(str, lost))}.", processes=listed(found))
    return found


def _result(changed: bool, found: dict[int, str], memory: dict[str, int], timings: dict[str, float]) -> dict:
    return {"changed": changed, "states": found, "gpu_memory": memory, "timings": timings}


def _each(pids: list[int], work: Callable[[int], object]) -> dict:
    """`work` on every process in a thread of its own; when all are done, the first error is raised."""
    if not pids:
        return {}
    with ThreadPoolExecutor(max_workers=len(pids)) as pool:
        futures = {pid: pool.submit(work, pid) for pid in pids}
    return {pid: future.result() for pid, future in futures.items()}
