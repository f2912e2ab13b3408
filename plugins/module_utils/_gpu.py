# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What this host's GPUs and their driver are: facts by NVML, what each driver version can do, and the map between GPUs.

Only reads: NVML by ctypes, /proc and the CDI folders; answers without a GPU too. Suspending is in _cuda.py, the choice
of a method in _gpu_method.py.
"""

from __future__ import annotations

import ctypes
import functools
import re
import uuid
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

# Where driver libraries lie when the dynamic linker does not know them (container-optimised hosts, GPU operators, WSL).
LIBRARY_FOLDERS = (
    "/usr/local/nvidia/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/run/nvidia/driver/usr/lib/x86_64-linux-gnu",
    "/usr/lib/wsl/lib",
)

# First driver branch, what came with it, and where that is written.
DRIVER_CAPABILITIES = (
    (535, "containers", "GPU containers with podman", "llmux, podman and CRIU example: requirements"),
    (550, "toggle", "cuda-checkpoint --toggle", "NVIDIA/cuda-checkpoint README"),
    (555, "action", "cuda-checkpoint --action, which CRIU's plugin needs", "criu 4.0 plugins/cuda README"),
    (570, "driver_api", "checkpoint functions in libcuda, lock timeout, use of NVML", "NVIDIA/cuda-checkpoint README, cuda.h 12.8"),
    (580, "gpu_map", "restore on a GPU with another UUID", "cuda.h 13.0 (CUcheckpointGpuPair), NVIDIA/cuda-checkpoint#18"),
    (590, "launch_job", "cuda-checkpoint --launch-job", "NVIDIA/cuda-checkpoint#43"),
    (610, "cuda_ipc", "processes that share memory by CUDA IPC", "NVIDIA/cuda-checkpoint#56"),
)

# Version prefix, whether `auto` refuses it, what happens, and who reported it.
KNOWN_BAD_DRIVERS = (
    ("595.71.05", False, "killing a restored process that was not suspended first hangs the host", "NVIDIA/cuda-checkpoint#53"),
    ("610.57", True, "locking a multi-threaded server can crash it", "NVIDIA/cuda-checkpoint#58"),
)


def has_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


def open_library(name: str) -> ctypes.CDLL | None:
    """The shared library `name`, from the linker's path or the folders where drivers put it; None if it is nowhere."""
    for path in (name, *(f"{folder}/{name}" for folder in LIBRARY_FOLDERS)):
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    return None


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Process(ctypes.Structure):
    # nvmlProcessInfo_v2_t, which the _v3 call fills too
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


class Nvml:
    """NVIDIA's management library, opened once for each call of a module (Nvml.load)."""

    def __init__(self, library: ctypes.CDLL):
        self.library = library
        code = library.nvmlInit_v2()
        if code:
            library.nvmlErrorString.restype = ctypes.c_char_p
            text = library.nvmlErrorString(code).decode()
            # 18: NVML_ERROR_LIB_RM_VERSION_MISMATCH
            raise WarmstartError("driver_mismatch" if code == 18 else "no_gpu", f"nvmlInit: {text} ({code}).")
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        self.handles = {}
        for index in range(count.value):
            handle = ctypes.c_void_p()
            self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
            self.handles[self._text("nvmlDeviceGetUUID", handle)] = handle

    @classmethod
    def load(cls) -> Nvml:
        return _load_nvml()

    def _call(self, name: str, *arguments) -> int:
        """Call `name`; the error's number, or 0."""
        function = getattr(self.library, name, None)
        return function(*arguments) if function else 13  # NVML_ERROR_FUNCTION_NOT_FOUND

    def _text(self, name: str, *arguments) -> str:
        buffer = ctypes.create_string_buffer(96)
        self._call(name, *arguments, buffer, ctypes.c_uint(len(buffer)))
        return buffer.value.decode()

    def _number(self, name: str, handle, values: int = 1) -> list[int] | None:
        numbers = [ctypes.c_int() for _time in range(values)]
        if self._call(name, handle, *map(ctypes.byref, numbers)):
            return None
        return [number.value for number in numbers]

    def driver(self) -> str:
        return self._text("nvmlSystemGetDriverVersion")

    def cuda_version(self) -> tuple[int, int]:
        """The newest CUDA that this driver runs, as (13, 0)."""
        version = ctypes.c_int()
        self._call("nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(version))
        return version.value // 1000, version.value % 1000 // 10

    def memory(self) -> dict[str, dict[str, int]]:
        """Bytes {total, free} of every GPU, by UUID."""
        answer = {}
        for name, handle in self.handles.items():
            memory = _Memory()
            self._call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
            answer[name] = {"total": memory.total, "free": memory.free}
        return answer

    def process_memory(self, pids) -> dict[int, dict[str, int]]:
        """Bytes that each of `pids` holds on each GPU; processes that hold none are left out."""
        answer: dict[int, dict[str, int]] = {}
        for name, handle in self.handles.items():
            for process in self._processes(handle):
                # an absent figure is the largest number
                if process.pid in pids and process.used != 2**64 - 1:
                    answer.setdefault(process.pid, {})[name] = process.used
        return answer

    def _processes(self, handle) -> list[_Process]:
        for size in (64, 1024):
            found, count = (_Process * size)(), ctypes.c_uint(size)
            for version in ("v3", "v2"):
                if not self._call(f"nvmlDeviceGetComputeRunningProcesses_{version}", handle, ctypes.byref(count), found):
                    return list(found[: count.value])
        return []

    def gpus(self) -> list[dict]:
        memory = self.memory()
        answer = []
        for index, (name, handle) in enumerate(self.handles.items()):
            capability = self._number("nvmlDeviceGetCudaComputeCapability", handle, 2)
            mig = self._number("nvmlDeviceGetMigMode", handle, 2)
            persistence = self._number("nvmlDeviceGetPersistenceMode", handle)
            answer.append(
                {
                    "index": index,
                    "name": self._text("nvmlDeviceGetName", handle),
                    "uuid": name,
                    "memory_total": memory[name]["total"],
                    "memory_free": memory[name]["free"],
                    "compute_capability": ".".join(map(str, capability or ())),
                    "mig": bool(mig and mig[0]),
                    "persistence": bool(persistence and persistence[0]),
                }
            )
        return answer


@functools.lru_cache(maxsize=1)
def _load_nvml() -> Nvml:
    library = open_library("libnvidia-ml.so.1")
    if library is None:
        raise WarmstartError("no_gpu", "The driver's library libnvidia-ml.so.1 was not found.")
    nvml = Nvml(library)
    if not nvml.handles:
        raise WarmstartError("no_gpu", "The driver is loaded, but it lists no GPU.")
    return nvml


def gpu_facts() -> dict:
    """driver (version or ""), gpus, mps, and error: the WarmstartError that says why there is no GPU, or None."""
    try:
        nvml = Nvml.load()
    except WarmstartError as error:
        return {"driver": "", "gpus": [], "mps": False, "error": error}
    return {"driver": nvml.driver(), "gpus": nvml.gpus(), "mps": mps_running(), "error": None}


def mps_running() -> bool:
    """Whether NVIDIA's MPS control daemon or server runs (the kernel cuts its name to 15 characters)."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().startswith("nvidia-cuda-mps"):
                return True
        except OSError:
            continue
    return False


def branch(driver: str) -> int:
    """580 of 580.159.04; 0 of an empty string."""
    return int(driver.split(".")[0] or 0)


def capabilities(driver: str) -> dict[str, bool]:
    return {name: branch(driver) >= first for first, name, _what, _source in DRIVER_CAPABILITIES}


def known_fault(driver: str) -> tuple[bool, str] | None:
    """(whether `auto` refuses this driver, what goes wrong and the source) of a driver with a known fault."""
    for prefix, refused, effect, source in KNOWN_BAD_DRIVERS:
        if driver == prefix or driver.startswith(f"{prefix}."):
            return refused, f"Driver {driver}: {effect} ({source})."
    return None


def cdi_specs(folders=("/etc/cdi", "/var/run/cdi")) -> list[str]:
    """The CDI specifications here that describe NVIDIA GPUs, which `podman run --device nvidia.com/gpu=...` needs."""
    kind = re.compile(r"""["']?kind["']?\s*:\s*["']?nvidia\.com/gpu\b""")
    files = [path for folder in folders for path in Path(folder).glob("*.*") if path.suffix in (".yaml", ".yml", ".json")]
    return sorted(str(path) for path in files if kind.search(path.read_text(errors="replace")))


def uuid_bytes(gpu: str) -> bytes:
    """The 16 bytes of GPU-8b7ea2d9-..."""
    try:
        return uuid.UUID(re.sub("^GPU-", "", gpu)).bytes
    except ValueError:
        raise WarmstartError("bad_input", f"{gpu!r} is not the UUID of a GPU (GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx).") from None


def gpu_map(recorded: list[dict], here: list[dict], wanted="auto", needed: dict[str, int] | None = None) -> dict[str, str]:
    """Pairs old -> new UUID, one for every recorded GPU; empty where each GPU is the same as before.

    `recorded` and `here` are lists of GPUs as in gpu_facts; `wanted` is "auto" or a mapping of UUIDs; `needed` are the bytes
    by recorded GPU. Automatically, a GPU stays where it is if it is here and has the memory free, else it takes one of the
    same chip that has, those that need most first. Raises gpu_mismatch.
    """
    old, new = ({gpu["uuid"]: gpu for gpu in gpus} for gpus in (recorded, here))
    pairs = _pair(old, new, needed or {}) if wanted == "auto" else dict(wanted)
    if set(pairs) != set(old) or len(set(pairs.values())) < len(pairs):
        raise WarmstartError("gpu_mismatch", f"gpu_map must pair every GPU of the checkpoint ({', '.join(old)}) with a GPU of its own.")
    for before, after in pairs.items():
        if after not in new or not _same_chip(old[before], new[after]):
            raise WarmstartError("gpu_mismatch", f"{_label(old[before])} cannot become {_label(new.get(after, {'uuid': after}))}.")
    return {} if all(before == after for before, after in pairs.items()) else pairs


def _pair(old: dict[str, dict], new: dict[str, dict], needed: dict[str, int]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for name in sorted(old, key=lambda name: -needed.get(name, 0)):
        free = [other for other in new if other not in pairs.values() and _same_chip(old[name], new[other])]
        if not free:
            present = ", ".join(map(_label, new.values())) or "none"
            raise WarmstartError("gpu_mismatch", f"No free GPU here for {_label(old[name])}; here are: {present}.")
        # too little memory on all of them is told by the resume, with the figures
        pairs[name] = min(free, key=lambda other: (needed.get(name, 0) > new[other].get("memory_free", 0), other != name, other in old))
    return pairs


def _same_chip(one: dict, other: dict) -> bool:
    return all(one[key] == other[key] for key in ("name", "compute_capability", "memory_total"))


def _label(gpu: dict) -> str:
    return f"{gpu.get('name', 'an absent GPU')} ({gpu['uuid']})"
