# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two GPUs: a container moves from one to the other by gpu_map, and two containers resume side by side.

Needs 30 GB of host memory; touches containers gpu-test-0 and gpu-test-1. vLLM's own move is in test_vllm.py.
"""

from __future__ import annotations

import time

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._gpu import Nvml
from ansible_collections.gpufleet.warmstart.plugins.module_utils._process import cgroup_pids
from conftest import PYTHON, Server, finish_module, podman, run_module, start_module, two_gpus

pytestmark = two_gpus
GB = 8  # that each server holds on its GPU


@pytest.fixture(scope="module")
def servers(image, tmp_path_factory):
    """A CUDA server on each of two GPUs."""
    made = [Server(f"gpu-test-{index}", tmp_path_factory.mktemp(f"gpu{index}")) for index in range(2)]
    for index, server in enumerate(made):
        podman("rm", "-f", "-t", "0", server.name, check=False)
        arguments = ("--privileged", "-e", f"CUDA_VISIBLE_DEVICES={index}")
        server.start(PYTHON, "/tests/cuda_server.py", "/state", str(GB), args=arguments)
    for server in made:
        server.wait_for_count()
    yield made
    for server in made:
        podman("rm", "-f", "-t", "0", server.name, check=False)


def held(server: Server) -> set[str]:
    """The GPUs on which the server holds memory."""
    return {gpu for memory in Nvml.load().process_memory(set(cgroup_pids(server.pid))).values() for gpu in memory}


def test_resume_side_by_side(servers):
    """What two resumes take one after the other and at once; printed as a ratio."""
    seconds: dict[str, list[float]] = {"one after the other": [], "at once": []}
    for _time in range(2):
        for way, found in seconds.items():
            for server in servers:
                assert run_module("podman_suspend", name=server.name, state="suspended")["changed"]
            began = time.monotonic()
            if way == "at once":
                results = [finish_module(p) for p in [start_module("podman_suspend", name=s.name, state="running") for s in servers]]
            else:
                results = [run_module("podman_suspend", name=server.name, state="running") for server in servers]
            found.append(time.monotonic() - began)
            assert all(result["changed"] for result in results)
            print(f"  {way}: {found[-1]:.2f} s, of them resume {[round(result['timings']['resume'], 2) for result in results]}")
    assert all(server.goes_on() for server in servers)
    print(f"  at once {min(seconds['one after the other']) / min(seconds['at once']):.2f} times as fast")
    assert min(seconds["at once"]) < min(seconds["one after the other"])


def test_archive_moves_by_gpu_map(servers, tmp_path):
    """Checkpointed on GPU 0, restored on GPU 1 as told, with its memory as it was."""
    moving, other = servers
    podman("rm", "-f", "-t", "0", other.name)
    first, second = list(Nvml.load().handles)[:2]
    assert held(moving) == {first}
    checksum = moving.last()[1]
    archive = tmp_path / "checkpoint.tar"
    taken = run_module("podman_checkpoint", name=moving.name, archive=str(archive), leave_running=False)
    assert not taken["failed"], taken
    run_module("podman_server", name=moving.name, state="absent")
    swapped = {first: second, second: first}
    back = run_module("podman_restore", name=moving.name, archive=str(archive), gpu_map=swapped)
    assert not back["failed"], back
    assert moving.goes_on()
    assert moving.last()[1] == checksum
    assert held(moving) == {second}
