# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes down what the real driver answers to right and wrong calls, for the unit tests: capture_driver.py FILE.json"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time

import conftest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _cuda, _gpu, _gpu_method

began = time.perf_counter()
nvml = _gpu.Nvml.load()
nvml_load = time.perf_counter() - began
began = time.perf_counter()
cuda = _cuda.Cuda.load()
seconds = {"nvml_load": nvml_load, "cuda_load": time.perf_counter() - began}
steps: list[dict] = []


def raw(step: str, name: str, pid: int, *arguments) -> int:
    """Call cuCheckpointProcess`name` and note the answer and the state after it."""
    started = time.perf_counter()
    code = getattr(cuda.library, f"cuCheckpointProcess{name}")(pid, *arguments)
    took = time.perf_counter() - started
    text, state = ctypes.c_char_p(), ctypes.c_int(-1)
    cuda.library.cuGetErrorName(code, ctypes.byref(text))
    after = cuda.library.cuCheckpointProcessGetState(pid, ctypes.byref(state))
    word = None if after else _cuda.STATES[state.value]
    answer = {"code": code, "name": text.value.decode(), "state": word, "state_code": after}
    steps.append({"step": step, "call": name, **answer, "seconds": round(took, 6)})
    return code


def start() -> subprocess.Popen:
    command = [sys.executable, "-c", _gpu_method.SELF_TEST_PROCESS, cuda.library._name, str(_gpu_method.SELF_TEST_BYTES)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


state, lock = ctypes.byref(ctypes.c_int()), ctypes.byref(_cuda._LockArgs(timeout_ms=1000))
began = time.perf_counter()
process = start()
seconds["cuda_process"] = time.perf_counter() - began
pid = process.pid
sleeper = subprocess.Popen(["sleep", "100"])
raw("a process without CUDA", "GetState", sleeper.pid, state)
raw("lock a process without CUDA", "Lock", sleeper.pid, lock)
sleeper.kill()
time.sleep(0.1)
raw("a zombie", "GetState", sleeper.pid, state)
sleeper.wait()
raw("no such process", "GetState", sleeper.pid, state)
raw("running", "GetState", pid, state)
raw("checkpoint without lock", "Checkpoint", pid, None)
raw("restore without checkpoint", "Restore", pid, None)
raw("unlock without lock", "Unlock", pid, None)
raw("lock", "Lock", pid, lock)
raw("lock twice", "Lock", pid, lock)
raw("restore while locked", "Restore", pid, None)
raw("checkpoint", "Checkpoint", pid, None)
raw("checkpoint twice", "Checkpoint", pid, None)
raw("lock while checkpointed", "Lock", pid, lock)
raw("unlock while checkpointed", "Unlock", pid, None)
raw("restore", "Restore", pid, None)
raw("restore twice", "Restore", pid, None)
raw("unlock", "Unlock", pid, None)
raw("unlock twice", "Unlock", pid, None)
here = nvml.gpus()[0]["uuid"]
pair = (_cuda._GpuPair * 1)()
pair[0].old[:], pair[0].new[:] = _gpu.uuid_bytes(here), b"\1" * 16
raw("lock", "Lock", pid, lock)
raw("checkpoint", "Checkpoint", pid, None)
raw("restore on a GPU that is not there", "Restore", pid, ctypes.byref(_cuda._RestoreArgs(pairs=pair, count=1)))
pair[0].new[:] = pair[0].old[:]
raw("restore with an identity map", "Restore", pid, ctypes.byref(_cuda._RestoreArgs(pairs=pair, count=1)))
raw("unlock", "Unlock", pid, None)
try:
    same = process.communicate("go on\n", timeout=10)[0].strip()
except subprocess.TimeoutExpired:
    process.kill()
    same = "no answer"
facts = {"driver": nvml.driver(), "cuda": cuda.version, "library": cuda.library._name, "memory_after": same, "gpus": nvml.gpus()}

# A process whose GPU work, here a callback of 3 s, is not done when the lock times out.
BUSY = """
import ctypes, sys, time
cuda, context, device = ctypes.CDLL(sys.argv[1]), ctypes.c_void_p(), ctypes.c_int()
cuda.cuInit(0), cuda.cuDeviceGet(ctypes.byref(device), 0), cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: time.sleep(3))
print(cuda.cuCtxSetCurrent(context), cuda.cuLaunchHostFunc(None, callback, None), flush=True)
sys.stdin.readline()
"""
busy = subprocess.Popen([sys.executable, "-c", BUSY, cuda.library._name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print("busy:", busy.stdout.readline())
raw("lock a busy process", "Lock", busy.pid, lock)
busy.communicate("go on\n", timeout=10)


def restore_with(spare: int) -> None:
    """Checkpoint a process, leave its need and `spare` bytes free, and restore it."""
    process = start()
    need = nvml.process_memory({process.pid})[process.pid][here]
    raw("lock", "Lock", process.pid, lock)
    raw("checkpoint", "Checkpoint", process.pid, None)
    command = [sys.executable, "-c", conftest.HOG, cuda.library._name, str(need + spare)]
    hog = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    hog.stdout.readline()
    free = nvml.memory()[here]["free"]
    code = raw(f"restore {need} bytes with {free} free", "Restore", process.pid, None)
    if code:
        raw("unlock after it", "Unlock", process.pid, None)
    hog.communicate("go\n")
    if code:
        raw("restore when memory is free again", "Restore", process.pid, None)
    process.kill()
    process.wait()


for spare in (64 << 20, 4 << 20, 0, -(64 << 20)):
    restore_with(spare)
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump({**facts, "seconds": seconds, "steps": steps}, file, indent=1)
for step in steps:
    print(step)
print(seconds, facts)
