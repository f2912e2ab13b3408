# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""podman_suspend and cuda_checkpoint_check on a real GPU: what is released, what comes back, and what goes wrong well."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _cuda
from ansible_collections.gpufleet.warmstart.plugins.module_utils._gpu import Nvml
from ansible_collections.gpufleet.warmstart.plugins.module_utils._process import RUN, cgroup_pids, leftover_devices
from conftest import PYTHON, Server, finish_module, hog, podman, run_module, start_module

GB = 10**9


def suspend(server: Server, state: str, *options: str, **more) -> dict:
    return run_module("podman_suspend", *options, name=server.name, state=state, **more)


def spin(server: Server, seconds: float) -> None:
    """Keep the GPU busy with one kernel."""
    (server.folder / "spin").write_text(str(seconds))
    while not (server.folder / "spinning").exists():
        time.sleep(0.01)


def used() -> int:
    return sum(memory["total"] - memory["free"] for memory in Nvml.load().memory().values())


@pytest.fixture
def running(server: Server):
    """The server on the GPU before the test, and whole after it."""
    if not server.alive:
        server.start_again()
    assert not suspend(server, "running")["failed"]
    checksum = server.last()[1]
    yield server
    assert not suspend(server, "running")["failed"]
    assert server.goes_on()
    assert server.last()[1] == checksum
    assert not list(RUN.glob("[0-9]*"))


def test_check_and_self_test():
    result = run_module("cuda_checkpoint_check", self_test=True, required=True)
    assert not result["failed"]
    assert result["ready"]
    assert result["gpus"]
    assert result["self_test"]["memory"]["suspended"] == 0


def test_suspend_and_resume_and_each_twice(running):
    checked = suspend(running, "suspended", "--check")
    assert checked["changed"]
    assert running.goes_on()
    before = used()
    away = suspend(running, "suspended", "--diff")
    assert away["changed"]
    assert away["state"] == {"before": "running", "after": "suspended"}
    assert sum(away["gpu_memory"]["before"].values()) > 4 * GB
    assert away["gpu_memory"]["after"] == {}
    print(f"  GPU memory in use: {before} with the server, {used()} without it; the driver said {away['gpu_memory']['before']}")
    assert before - used() > 4 * GB
    assert running.stands_still()
    assert leftover_devices(cgroup_pids(running.pid)) == {}
    assert not suspend(running, "suspended")["changed"]
    assert not suspend(running, "suspended", "--check")["changed"]
    back = suspend(running, "running")
    assert back["changed"]
    print(f"  GPU memory in use again: {used()}")
    assert abs(used() - before) < 0.1 * GB
    assert running.goes_on()
    assert not suspend(running, "running")["changed"]


def test_too_little_memory_to_resume(running):
    assert suspend(running, "suspended")["changed"]
    with hog(3 * GB):
        refused = suspend(running, "running")
        assert refused["failed"]
        assert refused["reason"] == "gpu_memory"
        assert [process["state"] for process in refused["processes"]] == ["checkpointed"]
    assert suspend(running, "running")["changed"]


def test_just_enough_memory_to_resume(running):
    need = sum(suspend(running, "suspended")["gpu_memory"]["before"].values())
    # NVML sees 2 MB less than CUDA does
    with hog(need + _cuda.SPARE_MEMORY + (4 << 20)):
        assert suspend(running, "running")["changed"]
        assert running.goes_on()


def test_lock_timeout_leaves_the_server_running(running):
    spin(running, 8)
    late = suspend(running, "suspended", lock_timeout=0.5)
    assert late["failed"]
    assert late["reason"] == "lock_timeout"
    assert [process["state"] for process in late["processes"]] == ["running"]
    assert (running.folder / "spinning").exists(), "the GPU was free before the lock timed out: the test proves nothing"
    assert suspend(running, "suspended", lock_timeout=30)["changed"]


def test_one_busy_process_unlocks_the_other(running):
    alone = set(_cuda.states(cgroup_pids(running.pid)))
    second = Server(running.name, running.folder / "second")
    second.folder.mkdir()
    podman("exec", "-d", running.name, PYTHON, "/tests/cuda_server.py", "/state/second")
    second.wait_for_count()
    (other,) = set(_cuda.states(cgroup_pids(running.pid))) - alone
    (running.folder / "spun").unlink(missing_ok=True)
    spin(running, 8)
    late = suspend(running, "suspended", lock_timeout=0.5)
    assert late["reason"] == "lock_timeout"
    assert [process["state"] for process in late["processes"]] == ["running", "running"]
    assert second.goes_on()
    away = suspend(running, "suspended", lock_timeout=30)
    assert [process["state"] for process in away["processes"]] == ["checkpointed", "checkpointed"]
    assert second.stands_still()
    assert suspend(running, "running")["changed"]
    assert second.goes_on()
    os.kill(other, signal.SIGKILL)


def module_pid(started: subprocess.Popen) -> int:
    """The process in which Ansible runs the module, once it is there."""
    while started.poll() is None:
        for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = cmdline.read_bytes().split(b"\0")
            except OSError:
                continue
            if b"python" in words[0] and len(words) > 1 and words[1].endswith(b"AnsiballZ_podman_suspend.py"):
                return int(cmdline.parent.name)
        time.sleep(0.005)
    raise AssertionError("the module ended before it could be killed")


@pytest.mark.parametrize("state", ["suspended", "running"])
@pytest.mark.parametrize("delay", [0.0, 0.3, 0.8])
def test_killed_module_is_mended_by_the_next_run(running, state, delay):
    if state == "running":
        suspend(running, "suspended")
    (pid,) = _cuda.states(cgroup_pids(running.pid))
    started = start_module("podman_suspend", name=running.name, state=state)
    victim = module_pid(started)
    # it works from the moment it has claimed the process
    while not holds(victim, RUN / str(pid)):
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(victim, signal.SIGKILL)
    started.communicate()
    began = time.monotonic()
    seen = _cuda.states([pid])
    print(f"  killed {delay} s after it began to make it {state}: {seen}, answered in {time.monotonic() - began:.3f} s")
    assert suspend(running, "suspended")["state"]["after"] == "suspended"
    assert running.stands_still()


def holds(pid: int, path: Path) -> bool:
    """Whether the process has the file open."""
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            if os.readlink(f"/proc/{pid}/fd/{number}") == str(path):
                return True
    return False


def test_two_runs_at_once(running):
    both = [start_module("podman_suspend", name=running.name, state="suspended") for _time in range(2)]
    results = [finish_module(process) for process in both]
    assert sum(result.get("changed", False) for result in results) == 1
    assert all(not result["failed"] or result["reason"] == "gpu_busy" for result in results)


def test_container_without_cuda_paused_and_stopped(image, tmp_path):
    plain = Server("gpu-test-plain", tmp_path)
    podman("rm", "-f", "-t", "0", plain.name, check=False)
    try:
        plain.start("sleep", "100")
        assert suspend(plain, "suspended")["reason"] == "no_cuda_process"
        podman("pause", plain.name)
        assert suspend(plain, "suspended")["reason"] == "container_paused"
        podman("unpause", plain.name)
        podman("kill", plain.name)
        podman("wait", plain.name)
        assert suspend(plain, "suspended")["reason"] == "container_not_running"
    finally:
        podman("rm", "-f", "-t", "0", plain.name, check=False)
    assert suspend(plain, "suspended")["reason"] == "container_missing"


def test_server_that_dies_while_locked(running):
    (pid,) = _cuda.states(cgroup_pids(running.pid))
    _cuda.Cuda.load().lock(pid, 5)
    assert running.stands_still()
    # an engine whose process dies under the lock: the next run says so, nothing hangs, and the GPU is free again
    before = used()
    os.kill(pid, signal.SIGKILL)
    podman("wait", running.name)
    assert suspend(running, "running")["reason"] == "container_not_running"
    assert before - used() > 4 * GB
    running.start_again()
