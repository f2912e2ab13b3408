# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real vLLM through the playbooks: cold start, restore in place and from an archive, and resume, each to the same tokens.

One row of JSON for each measurement goes to GPU_TEST_OUT/rows.jsonl (default build/gpu-test/results) as it is made. The server
is inventory.yml's; the tests run in order, and the last compares the rows with the targets. Touches container qwen, /models
and /mnt/checkpoint-ram. Needs vLLM in /opt/vllm (or GPU_TEST_VARS) and 60 GB of host memory.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._gpu import Nvml
from ansible_collections.gpufleet.warmstart.plugins.module_utils._process import cgroup_pids
from conftest import COLLECTIONS, PYTHON, ROOT, hog, podman, run_module, two_gpus

HERE = Path(__file__).parent
MODEL = Path("/models/qwen2-1.5b")
OUT = Path(os.environ.get("GPU_TEST_OUT", ROOT / "build" / "gpu-test" / "results"))
VARS = os.environ.get("GPU_TEST_VARS")
INVENTORY = ("-i", str(HERE / "inventory.yml"), *(("-e", f"@{VARS}") if VARS else ()))
NAME = "qwen"
ARCHIVE = Path("/mnt/checkpoint-ram/store/golden/qwen/1/checkpoint.tar")
SERVER, PROBE = "{{ warmstart_server }}", "{{ warmstart_probe }}"
EAGER = "{{ warmstart_server | combine({'command': warmstart_server.command + ['--enforce-eager']}) }}"
# what NVIDIA/cuda-checkpoint#27 and ai-dynamo/snapshot say a driver before 610 needs: no memory shared between the processes
TWO_GPUS = """{{ warmstart_server | combine({
    'command': warmstart_server.command + ['--tensor-parallel-size', '2', '--disable-custom-all-reduce', '--enforce-eager'],
    'env': {'NCCL_P2P_DISABLE': '1', 'NCCL_SHM_DISABLE': '1', 'NCCL_NVLS_ENABLE': '0', 'NCCL_SOCKET_IFNAME': 'lo', 'NCCL_IB_DISABLE': '1',
            'VLLM_ALLREDUCE_USE_SYMM_MEM': '0', 'TORCH_SYMM_MEM_DISABLE_MULTICAST': '1', 'NVSHMEM_DISABLE_NVLS': '1'},
}, recursive=true) }}"""
TIMES = int(os.environ.get("GPU_TEST_TIMES", "5"))
ROWS: list[dict] = []


def playbook(name: str, **variables) -> float:
    """Run gpufleet.warmstart.NAME and return its seconds."""
    began = time.monotonic()
    done = subprocess.run(
        ["ansible-playbook", *INVENTORY, f"gpufleet.warmstart.{name}", "-e", "ansible_python_interpreter={{ ansible_playbook_python }}",
         "-e", json.dumps(variables)],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_NOCOLOR": "1"},
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    print(done.stdout[-6000:], done.stderr[-2000:])
    assert done.returncode == 0
    return time.monotonic() - began


def note(method: str, timings: dict, **more) -> dict:
    row = {"method": method, "seconds": {name: round(value, 4) for name, value in timings.items()}, **more}
    ROWS.append(row)
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row


def module(name: str, **arguments) -> dict:
    """The module's result, with the seconds that the whole ansible command took; a failure fails the test."""
    began = time.monotonic()
    result = run_module(name, *INVENTORY, name=NAME, **arguments)
    assert not result["failed"], result
    return {**result, "wall": time.monotonic() - began}


def measure(method: str, oracle: list[str] | None, wanted: str | None, module_name: str = "podman_restore", **arguments) -> dict:
    """One measured call, which must give the oracle's tokens by the way `wanted`."""
    result = module(module_name, probe=PROBE, **arguments)
    # two tokens may come in one chunk of the stream, so what counts is the text
    same = oracle is None or "".join(result["probe"]["tokens"]) == "".join(oracle)
    note(method, result["timings"], wall=round(result["wall"], 2), same_tokens=same, path_taken=result.get("path_taken"))
    assert wanted is None or result["path_taken"] == wanted
    assert same, (oracle, result["probe"]["tokens"])
    return result


def drop_page_cache() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def stopped(state: str = "stopped") -> None:
    module("podman_server", state=state)


@pytest.fixture(scope="module", autouse=True)
def model() -> None:
    """The model that inventory.yml names, written where it is not there yet."""
    if not VARS and not (MODEL / "config.json").exists():
        subprocess.run([PYTHON, HERE / "make_model.py", MODEL], check=True)


@pytest.fixture(scope="module")
def oracle(image) -> list[str]:
    """The tokens that the golden checkpoint was taken with."""
    return json.loads((ARCHIVE.parent / "manifest.json").read_text())["oracle"]["tokens"]


def test_provision(canary):
    note("provision", {"wall": playbook("provision")})


def test_weights_left_out(image):
    """Sleep level 2: the checkpoint holds no weights, and the engine loads them again after the restore.

    A server that slept at level 1 before would not do: torch keeps the memory that its weights were pinned in.
    """
    podman("rm", "-f", "-t", "0", NAME, check=False)
    tokens = measure("cold", None, None, "podman_server", server=SERVER)["probe"]["tokens"]
    try:
        taken = module("podman_checkpoint", sleep_level=2)
        note("checkpoint_level_2", taken["timings"], parts=taken["parts"])
        for _time in range(3):
            measure("restore_in_place_level_2", tokens, "in_place")
            stopped()
        measure("restore_in_place_level_2", tokens, "in_place")
    except AssertionError:
        stopped("absent")
        raise


def test_golden(image):
    """Bakes from the server that runs, or starts one: then with a cold page cache, if GPU_TEST_DROP_CACHES is set."""
    shutil.rmtree(ARCHIVE.parent, ignore_errors=True)
    if os.environ.get("GPU_TEST_DROP_CACHES"):
        podman("rm", "-f", "-t", "0", NAME, check=False)
        drop_page_cache()
    wall = playbook("golden")
    manifest = json.loads((ARCHIVE.parent / "manifest.json").read_text())
    told = {**manifest["metadata"], **manifest["oracle"]}
    if told["cold_start"]:
        note("cold_page_cache_dropped" if os.environ.get("GPU_TEST_DROP_CACHES") else "cold", told["cold_start"])
    note("golden", manifest["timings"], wall=round(wall, 2), parts=manifest["archive"]["parts"], gpu=manifest["gpu"], tokens=told["tokens"],
         warmup=told["warmup"], first_token=told["first_token"])  # fmt: skip
    assert manifest["gpu"]["method"] == "driver_api"
    assert manifest["gpu"]["sleep_level"] == 1
    assert len(told["tokens"]) > 10


def test_resume(oracle):
    for _time in range(TIMES):
        away = module("podman_suspend", state="suspended")
        assert away["gpu_memory"]["after"] == {}
        note("suspend", away["timings"], wall=round(away["wall"], 2), gpu_memory=away["gpu_memory"])
        measure("resume", oracle, None, "podman_suspend", state="running")


def test_restore_from_archive(oracle):
    stopped("absent")
    pages = ARCHIVE.with_name(f".{ARCHIVE.name}.pages")
    for method in ["restore_archive"] * TIMES + ["restore_archive_again"]:
        if method == "restore_archive":
            shutil.rmtree(pages, ignore_errors=True)  # as on a host that restores it for the first time
        measure(method, oracle, "archive", archive=str(ARCHIVE))
        if method == "restore_archive":
            stopped("absent")


@two_gpus
def test_restore_on_another_gpu(oracle):
    """The golden checkpoint's GPU has no room: it goes to the other one by itself, and is suspended and resumed there."""
    stopped("absent")
    with hog(10**9):
        there = measure("restore_archive_other_gpu", oracle, "archive", archive=str(ARCHIVE))
        assert there["container_id"]
        pids = cgroup_pids(int(podman("container", "inspect", "--format", "{{.State.Pid}}", NAME)))
        assert {gpu for held in Nvml.load().process_memory(set(pids)).values() for gpu in held} == {list(Nvml.load().handles)[1]}
        module("podman_suspend", state="suspended")
        measure("resume_other_gpu", oracle, None, "podman_suspend", state="running")
    stopped("absent")
    measure("restore_archive_again", oracle, "archive", archive=str(ARCHIVE))


def test_restore_in_place(oracle):
    taken = module("podman_checkpoint", force=True)
    note("checkpoint_in_place", taken["timings"], wall=round(taken["wall"], 2), parts=taken["parts"])
    for _time in range(TIMES):
        measure("restore_in_place", oracle, "in_place")
        stopped()
    stopped("absent")


def test_enforce_eager():
    tokens = measure("cold_eager", None, None, "podman_server", server=EAGER)["probe"]["tokens"]
    taken = module("podman_checkpoint")
    note("checkpoint_eager", taken["timings"], parts=taken["parts"])
    for _time in range(3):
        measure("restore_in_place_eager", tokens, "in_place")
        stopped()
    measure("restore_in_place_eager", tokens, "in_place")
    for _time in range(3):
        note("suspend_eager", module("podman_suspend", state="suspended")["timings"])
        measure("resume_eager", tokens, None, "podman_suspend", state="running")
    stopped("absent")


@two_gpus
def test_tensor_parallel():
    """Two processes on two GPUs that talk through sockets. What works is asserted; docs/benchmarks.md says what does not."""
    tokens = measure("cold_tensor_parallel", None, None, "podman_server", server=TWO_GPUS)["probe"]["tokens"]
    try:
        for _time in range(2):
            note("suspend_tensor_parallel", module("podman_suspend", state="suspended")["timings"])
            measure("resume_tensor_parallel", tokens, None, "podman_suspend", state="running")
        taken = module("podman_checkpoint")
        note("checkpoint_tensor_parallel", taken["timings"], parts=taken["parts"])
        for _time in range(2):
            measure("restore_in_place_tensor_parallel", tokens, "in_place")
            stopped()
    finally:
        stopped("absent")


def test_targets():
    """Against the cold start with a warm page cache of the same run."""
    cold = [row["seconds"]["total"] for row in ROWS if row["method"] == "cold"]
    assert cold, "no cold start was measured"
    missed = []
    for method, ratio, limit in (("restore_in_place", 25, 4.0), ("resume", 100, 0.9), ("restore_archive", 10, None)):
        totals = [row["seconds"]["total"] for row in ROWS if row["method"] == method]
        if not totals:  # its test was not run
            continue
        median = statistics.median(totals)
        print(f"  {method}: {median:.2f} s (of {len(totals)}), {min(cold) / median:.1f} times as fast as a cold start of {min(cold):.1f} s")
        if min(cold) / median < ratio or (limit and median > limit):
            missed.append(method)
    assert not missed
