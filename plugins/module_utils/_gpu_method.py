# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which way of checkpointing GPU memory this host has, and a self-test of it.

Only reads, except for the self-test, which runs a small CUDA process of its own. The way itself is in _cuda.py, GPU
facts in _gpu.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils import _cuda
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._gpu import (
    Nvml,
    branch,
    capabilities,
    cdi_specs,
    gpu_facts,
    has_driver,
    known_fault,
)
from ansible_collections.gpufleet.warmstart.plugins.module_utils._podman import Podman
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

# In the order that `auto` tries them, with the first driver branch of each.
METHODS = {"driver_api": 570, "cuda_checkpoint": 555, "criu_plugin": 555}
PLUGIN_FOLDERS = tuple(f"/usr/{folder}/criu" for folder in ("lib", "lib64", "lib/x86_64-linux-gnu", "local/lib", "local/lib64"))
SELF_TEST_BYTES = 64 * 2**20


def plugin_path() -> str | None:
    """CRIU's CUDA plugin, which acts by itself in every dump and restore where the cuda-checkpoint binary is there too."""
    return next((str(path) for path in (Path(folder, "cuda_plugin.so") for folder in PLUGIN_FOLDERS) if path.exists()), None)


def pick_method(requested: str = "auto", facts: dict | None = None) -> dict:
    """method (a key of METHODS or none), why (a sentence) and refused (method -> WarmstartError, those passed over).

    With `auto`, the first method that this host has; another `requested` method raises why the host does not have it.
    """
    if requested == "none":
        return {"method": "none", "why": "No GPU method was asked for.", "refused": {}}
    if requested not in ("auto", *METHODS):
        raise WarmstartError("bad_input", f"{requested!r} is no GPU method: auto, none, {', '.join(METHODS)}.")
    facts = facts or gpu_facts()
    refused: dict[str, WarmstartError] = {}
    for method in METHODS if requested == "auto" else (requested,):
        try:
            why = _require(method, facts, asked=requested != "auto")
        except WarmstartError as error:
            if requested != "auto":
                raise
            refused[method] = error
        else:
            return {"method": method, "why": why, "refused": refused}
    return {"method": "none", "why": " ".join(dict.fromkeys(map(str, refused.values()))), "refused": refused}


def api_for(method: str, runner: Runner, why: str = ""):
    """The calls of `method` for _cuda.suspend and resume; CRIU's plugin has none, it acts inside CRIU. `why` explains none."""
    if method == "driver_api":
        return _cuda.Cuda.load()
    if method == "cuda_checkpoint":
        return _cuda.CudaCheckpoint(runner)
    raise WarmstartError("gpu_method_missing", f"Method {method} cannot suspend a running container. {why}")


def _require(method: str, facts: dict, asked: bool) -> str:
    """Why `method` works here; raises why it does not."""
    if facts["error"]:
        raise facts["error"]
    split = [gpu["uuid"] for gpu in facts["gpus"] if gpu["mig"]]
    if split:
        raise WarmstartError("mig_on", f"{', '.join(split)}.")
    if facts["mps"]:
        raise WarmstartError("mps_on")
    driver = facts["driver"]
    if branch(driver) < METHODS[method]:
        raise WarmstartError("driver_too_old", f"Method {method} needs driver {METHODS[method]}; this is {driver}.")
    fault = known_fault(driver)
    if fault and fault[0] and not asked:
        raise WarmstartError("driver_known_bad", fault[1])
    if method == "driver_api":
        _cuda.Cuda.load()
        return f"Driver {driver} has the checkpoint functions; nothing else is needed."
    binary = shutil.which("cuda-checkpoint")
    if not binary:
        raise WarmstartError("gpu_method_missing", "The binary cuda-checkpoint was not found.")
    if method == "cuda_checkpoint":
        return f"{binary} is here."
    plugin = plugin_path()
    if not plugin:
        raise WarmstartError("gpu_method_missing", "CRIU's cuda_plugin.so was not found.")
    return f"{plugin} and {binary} are here."


def require_cuda(podman: Podman, image: str) -> None:
    """Refuse an image whose CUDA is newer than the driver runs, which would end in a "forward compatibility" error.

    Images based on NVIDIA's name theirs in CUDA_VERSION; others, and those not on this host yet, are let be.
    """
    match = re.match(r"(\d+)\.(\d+)", podman.image_env(image).get("CUDA_VERSION", "")) if has_driver() else None
    if match and tuple(map(int, match.groups())) > Nvml.load().cuda_version():
        here = ".".join(map(str, Nvml.load().cuda_version()))
        raise WarmstartError("cuda_too_new", f"{image} brings CUDA {match.group()}, driver {Nvml.load().driver()} runs {here}.")


def check(runner: Runner, requested: str = "auto", test: bool = False, image: str | None = None) -> dict:
    """Everything that module cuda_checkpoint_check returns."""
    facts = gpu_facts()
    problems: list[tuple[WarmstartError, bool]] = []
    try:
        picked = pick_method(requested, facts)
    except WarmstartError as error:
        picked = {"method": "none", "why": str(error), "refused": {requested: error}}
    if picked["method"] == "none":
        problems += [(error, True) for error in picked["refused"].values()]
    fault = known_fault(facts["driver"])
    if fault:
        problems.append((WarmstartError("driver_known_bad", fault[1]), False))
    report = {
        "method": picked["method"],
        "why": picked["why"],
        "driver": facts["driver"],
        "capabilities": capabilities(facts["driver"]),
        "gpus": facts["gpus"],
        "mps": facts["mps"],
        "binary": shutil.which("cuda-checkpoint") or "",
        "plugin": plugin_path() or "",
        "cdi": cdi_specs(),
    }
    if image:
        try:
            require_cuda(Podman(runner), image)
        except WarmstartError as error:
            problems.append((error, True))
    if test and picked["method"] in ("driver_api", "cuda_checkpoint"):
        try:
            report["self_test"] = self_test(api_for(picked["method"], runner))
        except WarmstartError as error:
            problems.append((error, True))
    reasons: dict[str, dict] = {}
    for error, certain in problems:
        reasons.setdefault(error.reason.code, _reason(error, certain))
    return {"ready": not any(certain for _error, certain in problems), "reasons": list(reasons.values()), **report}


def _reason(error: WarmstartError, certain: bool) -> dict:
    reason = error.reason
    return {"code": reason.code, "message": reason.message, "fix": reason.fix, "detail": error.detail, "certain": certain}


# A process with a pattern in GPU memory; it reports, waits for a line, compares and reports again.
SELF_TEST_PROCESS = """
import ctypes, hashlib, sys
library, size = ctypes.CDLL(sys.argv[1]), int(sys.argv[2])
def call(name, *arguments):
    code = getattr(library, name)(*arguments)
    if code:
        sys.exit(f"{name} failed with CUDA error {code}")
device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
pattern = hashlib.shake_256(b"gpufleet.warmstart").digest(1 << 20) * (size >> 20)
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
call("cuCtxSetCurrent", context)
call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(size))
call("cuMemcpyHtoD_v2", memory, pattern, ctypes.c_size_t(size))
print("ready", flush=True)
sys.stdin.readline()
back = ctypes.create_string_buffer(size)
call("cuMemcpyDtoH_v2", back, memory, ctypes.c_size_t(size))
print("same" if back.raw == pattern else "different", flush=True)
"""


def self_test(api) -> dict:
    """Suspend and resume a small CUDA process and compare its GPU memory: memory (bytes at each step) and timings.

    Raises self_test_failed, or what the suspend or resume raised.
    """
    began = time.monotonic()
    library = _cuda.Cuda.load().library._name
    process = subprocess.Popen(
        [sys.executable, "-c", SELF_TEST_PROCESS, library, str(SELF_TEST_BYTES)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        if process.stdout.readline().strip() != "ready":
            raise WarmstartError("self_test_failed", process.communicate(timeout=10)[1].strip())
        memory = {"running": _held_by(process.pid)}
        timings = {"cuda_process": time.monotonic() - began}
        timings.update(_cuda.suspend([process.pid], api=api)["timings"])
        memory["suspended"] = _held_by(process.pid)
        timings.update(_cuda.resume([process.pid], api=api)["timings"])
        memory["resumed"] = _held_by(process.pid)
        output, errors = process.communicate("go on\n", timeout=30)
    finally:
        process.kill()
        process.wait()
    if output.strip() != "same":
        raise WarmstartError("self_test_failed", f"After the resume its memory was: {output.strip() or errors.strip()}.", memory=memory)
    if memory["suspended"] or memory["running"] < SELF_TEST_BYTES:
        raise WarmstartError("self_test_failed", f"GPU memory held: {memory}.", memory=memory)
    return {"memory": memory, "timings": timings}


def _held_by(pid: int) -> int:
    return sum(Nvml.load().process_memory({pid}).get(pid, {}).values())
