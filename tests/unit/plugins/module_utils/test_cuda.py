"""_cuda.py, _gpu.py, _gpu_method.py and _process.py.

The driver that answers here is a replay of what a real one answered, written down by tests/gpu/capture_driver.py.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _cuda, _gpu, _gpu_method, _process
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

CAPTURE = json.loads((Path(__file__).parents[2] / "captures" / "cuda_driver_580_h100.json").read_text())
STEPS = CAPTURE["steps"]
GPU = CAPTURE["gpus"][0]
GB = 10**9
NEED = 610271232  # of the captured process
OTHER = {**GPU, "index": 1, "uuid": "GPU-00000000-1111-2222-3333-444444444444"}


def step(name: str) -> tuple[int, str | None]:
    """The answer and the state after the first step of this name."""
    found = next(step for step in STEPS if step["step"] == name)
    return found["code"], found["state"]


def replay() -> dict:
    """(state, call) -> (answer, state after), as captured from one process."""
    first = next(index for index, step in enumerate(STEPS) if step["step"] == "running")
    last = next(index for index, step in enumerate(STEPS) if step["step"] == "unlock twice")
    return {
        (before["state"], step["call"]): (step["code"], step["state"])
        for before, step in zip(STEPS[first:last], STEPS[first + 1 : last + 1])
    }


class Driver:
    """libcuda as ctypes shows it. `kinds` says of each process whether it is plain (no CUDA), busy, poor (no memory left) or well."""

    _name = "libcuda.so.1"

    def __init__(self, kinds: dict[int, str]):
        self.kinds, self.calls, self.maps = kinds, [], {}
        self.state = dict.fromkeys(kinds, "running")
        self.names = {step["code"]: step["name"] for step in STEPS}
        self.table = replay()
        for call in ("Lock", "Checkpoint", "Restore", "Unlock", "GetRestoreThreadId"):
            setattr(self, f"cuCheckpointProcess{call}", lambda pid, args, call=call: self.answer(call, pid, args))

    def cuInit(self, _flags):
        return 0

    def cuDriverGetVersion(self, version):
        version._obj.value = CAPTURE["cuda"]
        return 0

    def cuGetErrorName(self, code, text):
        text._obj.value = self.names[code].encode()

    def cuGetErrorString(self, _code, _text):
        return 0

    def cuCheckpointProcessGetState(self, pid, state):
        if self.kinds.get(pid, "plain") == "plain":
            return step("a process without CUDA" if pid in self.kinds else "no such process")[0]
        state._obj.value = _cuda.STATES.index(self.state[pid])
        return 0

    def answer(self, call: str, pid: int, args) -> int:
        self.calls.append((call, pid))
        if call == "Restore" and args is not None:
            pairs = args._obj
            self.maps[pid] = [(bytes(pairs.pairs[i].old), bytes(pairs.pairs[i].new)) for i in range(pairs.count)]
        code, after = self.table[self.state[pid], call]
        if (self.kinds[pid], call, code) == ("busy", "Lock", 0):
            code, after = step("lock a busy process")
        if (self.kinds[pid], call, code) == ("poor", "Restore", 0):
            code, after = step("restore 610271232 bytes with 612564992 free")
        self.state[pid] = after
        return code


class Nvml:
    """GPU memory as the replay has it: what the captured process held, and as much free as the test says."""

    def __init__(self, driver: Driver, free: int = GPU["memory_free"]):
        self.driver, self.free = driver, free

    def memory(self):
        return {GPU["uuid"]: {"total": GPU["memory_total"], "free": self.free}}

    def process_memory(self, pids):
        return {pid: {GPU["uuid"]: NEED} for pid in pids if self.driver.state[pid] != "checkpointed"}


@pytest.fixture
def sleepers():
    """Three real processes, since the library looks them up in /proc."""
    processes = [subprocess.Popen(["sleep", "60"]) for _time in range(3)]
    yield [process.pid for process in processes]
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def host(monkeypatch, tmp_path, sleepers):
    """host(kinds of the three processes, free memory) -> (the library on the replayed driver, the driver, the pids)."""
    monkeypatch.setattr(_process, "RUN", tmp_path / "gpu")

    def make(*kinds: str, free: int = GPU["memory_free"]):
        driver = Driver(dict(zip(sleepers, kinds)))
        monkeypatch.setattr(_cuda.Nvml, "load", lambda: Nvml(driver, free))
        return _cuda.Cuda(driver), driver, sleepers

    return make


def files() -> list[str]:
    return sorted(path.name for path in _process.RUN.glob("[0-9]*"))


def test_argument_structures_have_the_size_of_cuda_h():
    assert [ctypes.sizeof(kind) for kind in (_cuda._LockArgs, _cuda._GpuPair, _cuda._RestoreArgs)] == [64, 32, 64]


def test_suspend_locks_all_before_it_moves_any_and_leaves_others_alone(host):
    cuda, driver, pids = host("well", "plain", "well")
    result = _cuda.suspend(pids, api=cuda)
    assert result["changed"]
    assert result["states"] == {pids[0]: "checkpointed", pids[2]: "checkpointed"}
    assert result["gpu_memory"] == {GPU["uuid"]: 2 * NEED}
    assert set(result["timings"]) == {"lock", "cuda_checkpoint", "suspend"}
    assert [call for call, _pid in driver.calls] == ["Lock", "Lock", "Checkpoint", "Checkpoint"]
    assert files() == sorted(str(pid) for pid in (pids[0], pids[2]))


def test_suspend_and_resume_twice_change_nothing_the_second_time(host):
    cuda, driver, pids = host("well", "well", "plain")
    _cuda.suspend(pids, api=cuda)
    again = _cuda.suspend(pids, api=cuda)
    assert not again["changed"]
    assert again["gpu_memory"] == {GPU["uuid"]: 2 * NEED}
    assert _cuda.resume(pids, api=cuda)["states"] == {pids[0]: "running", pids[1]: "running"}
    assert files() == []
    count = len(driver.calls)
    assert not _cuda.resume(pids, api=cuda)["changed"]
    assert len(driver.calls) == count


def test_lock_timeout_of_one_unlocks_the_others(host):
    cuda, driver, pids = host("well", "busy", "well")
    with pytest.raises(WarmstartError, match="CUDA_ERROR_NOT_READY") as caught:
        _cuda.suspend(pids, lock_timeout=0.1, api=cuda)
    assert caught.value.reason.code == "lock_timeout"
    assert [process["state"] for process in caught.value.facts["processes"]] == ["running"] * 3
    assert ("Checkpoint", pids[0]) not in driver.calls


def test_too_little_memory_is_found_before_anything_is_restored(host):
    cuda, _driver, pids = host("well", "well", "plain")
    _cuda.suspend(pids, api=cuda)
    cuda, driver, pids = host("well", "well", "plain", free=2 * NEED + _cuda.SPARE_MEMORY)
    driver.state.update(dict.fromkeys(pids, "checkpointed"))
    with pytest.raises(WarmstartError) as caught:
        _cuda.resume(pids, api=cuda)
    assert caught.value.reason.code == "gpu_memory"
    assert caught.value.facts["needed"] == {GPU["uuid"]: 2 * (NEED + _cuda.SPARE_MEMORY)}
    assert driver.calls == []


def test_memory_needed_comes_from_the_manifest_where_another_host_suspended(host):
    cuda, driver, pids = host("well", "plain", "plain", free=10)
    driver.state[pids[0]] = "checkpointed"
    with pytest.raises(WarmstartError) as caught:
        _cuda.resume(pids, needed={OTHER["uuid"]: NEED}, gpu_map={OTHER["uuid"]: GPU["uuid"]}, api=cuda)
    assert caught.value.reason.code == "gpu_memory"


def test_a_file_of_an_earlier_process_with_the_same_number_is_not_believed(host):
    cuda, driver, pids = host("well", "plain", "plain", free=10)
    _process.RUN.mkdir()
    (_process.RUN / str(pids[0])).write_text(json.dumps({"started": "1", "gpu_memory": {GPU["uuid"]: NEED}}))
    driver.state[pids[0]] = "checkpointed"
    assert _cuda.resume(pids, api=cuda)["changed"]


def test_a_process_that_ran_out_of_memory_is_lost_and_the_others_are_put_back(host):
    cuda, driver, pids = host("well", "poor", "plain")
    _cuda.suspend(pids, api=cuda)
    with pytest.raises(WarmstartError, match="CUDA_ERROR_OUT_OF_MEMORY") as caught:
        _cuda.resume(pids, api=cuda)
    assert caught.value.reason.code == "cuda_failed_state"
    assert [process["state"] for process in caught.value.facts["processes"]] == ["checkpointed", "checkpointed"]
    assert ("Unlock", pids[0]) not in driver.calls


@pytest.mark.parametrize("left", [("locked", "running"), ("locked", "locked"), ("checkpointed", "locked"), ("checkpointed", "running")])
def test_what_a_killed_run_left_is_mended_or_carried_on(host, left):
    cuda, driver, pids = host("well", "well", "plain")
    driver.state.update(zip(pids, left))
    assert _cuda.overall(_cuda.states(pids, cuda)) == "half_done"
    assert _cuda.mend(pids, cuda) == dict(zip(pids, left))
    assert set(_cuda.states(pids, cuda).values()) == {"running"}
    assert _cuda.mend(pids, cuda) == {}
    driver.state.update(zip(pids, left))
    assert set(_cuda.suspend(pids, api=cuda)["states"].values()) == {"checkpointed"}
    assert _cuda.mend(pids, cuda) == {}


def test_two_runs_cannot_work_on_one_process(host):
    cuda, _driver, pids = host("well", "plain", "plain")
    with _process.Claims([pids[0]]), pytest.raises(WarmstartError) as caught:
        _cuda.suspend(pids, api=cuda)
    assert caught.value.reason.code == "gpu_busy"
    assert _cuda.suspend(pids, api=cuda)["changed"]


def test_gpu_map_reaches_the_driver(host):
    cuda, driver, pids = host("well", "plain", "plain")
    _cuda.suspend(pids, api=cuda)
    (_process.RUN / str(pids[0])).unlink()  # as on another host
    _cuda.resume(pids, gpu_map={OTHER["uuid"]: GPU["uuid"]}, needed={OTHER["uuid"]: NEED}, api=cuda)
    assert driver.maps == {pids[0]: [(_gpu.uuid_bytes(OTHER["uuid"]), _gpu.uuid_bytes(GPU["uuid"]))]}
    assert _gpu.uuid_bytes(OTHER["uuid"]).hex() == "00000000111122223333444444444444"
    cuda.version = 12080
    with pytest.raises(WarmstartError) as caught:
        cuda.restore(pids[0], {OTHER["uuid"]: GPU["uuid"]})
    assert caught.value.reason.code == "driver_too_old"


def test_library_without_the_functions():
    with pytest.raises(WarmstartError) as caught:
        _cuda.Cuda(ctypes.CDLL(None))
    assert caught.value.reason.code == "cuda_symbols_missing"


def test_gpu_map_pairs_by_chip():
    assert _gpu.gpu_map([GPU], [GPU]) == {}
    assert _gpu.gpu_map([GPU], [OTHER]) == {GPU["uuid"]: OTHER["uuid"]}
    assert _gpu.gpu_map([GPU, OTHER], [OTHER, {**OTHER, "uuid": "GPU-2"}]) == {OTHER["uuid"]: OTHER["uuid"], GPU["uuid"]: "GPU-2"}
    assert _gpu.gpu_map([GPU], [GPU, OTHER], {GPU["uuid"]: OTHER["uuid"]}) == {GPU["uuid"]: OTHER["uuid"]}


def test_gpu_map_goes_where_the_memory_is_free():
    needed, swapped = {GPU["uuid"]: GB}, {GPU["uuid"]: OTHER["uuid"], OTHER["uuid"]: GPU["uuid"]}
    full = {**GPU, "memory_free": GB - 1}
    assert _gpu.gpu_map([GPU, OTHER], [full, OTHER], needed=needed) == swapped
    assert _gpu.gpu_map([GPU, OTHER], [{**full, "memory_free": GB}, OTHER], needed=needed) == {}
    assert _gpu.gpu_map([GPU, OTHER], [full, {**OTHER, "memory_free": 0}], needed=needed) == {}  # the resume says how much is missing


@pytest.mark.parametrize(
    ("recorded", "here", "wanted"),
    [
        ([GPU], [], "auto"),
        ([GPU], [{**OTHER, "name": "NVIDIA H200"}], "auto"),
        ([GPU, {**GPU, "uuid": "GPU-2"}], [OTHER], "auto"),
        ([GPU], [GPU, OTHER], {}),
        ([GPU], [GPU], {GPU["uuid"]: OTHER["uuid"]}),
        ([GPU, OTHER], [GPU, OTHER], {GPU["uuid"]: GPU["uuid"], OTHER["uuid"]: GPU["uuid"]}),
    ],
)
def test_gpus_that_do_not_match(recorded, here, wanted):
    with pytest.raises(WarmstartError) as caught:
        _gpu.gpu_map(recorded, here, wanted)
    assert caught.value.reason.code == "gpu_mismatch"


def test_what_drivers_can_do():
    able = [name for name, able in _gpu.capabilities(CAPTURE["driver"]).items() if able]
    assert able == ["containers", "toggle", "action", "driver_api", "gpu_map"]
    assert not any(_gpu.capabilities("").values())
    assert _gpu.known_fault(CAPTURE["driver"]) is None
    assert _gpu.known_fault("610.57.04")[0]
    assert not _gpu.known_fault("595.71.05")[0]


def facts(**changed) -> dict:
    return {"driver": CAPTURE["driver"], "gpus": [GPU], "mps": False, "error": None, **changed}


@pytest.mark.parametrize(
    ("here", "code"),
    [
        (facts(driver="560.35.03"), "driver_too_old"),
        (facts(gpus=[{**GPU, "mig": True}]), "mig_on"),
        (facts(mps=True), "mps_on"),
        (facts(driver="610.57.04"), "driver_known_bad"),
        (facts(error=WarmstartError("no_gpu")), "no_gpu"),
    ],
)
def test_method_refused(here, code):
    picked = _gpu_method.pick_method("auto", here)
    assert picked["method"] == "none"
    assert picked["refused"]["driver_api"].reason.code == code


def test_method_asked_for_that_is_not_here():
    with pytest.raises(WarmstartError) as caught:
        _gpu_method.pick_method("driver_api", facts(driver="550.90.07"))
    assert caught.value.reason.code == "driver_too_old"
    with pytest.raises(WarmstartError, match="no GPU method"):
        _gpu_method.pick_method("magic")
    assert _gpu_method.pick_method("none")["method"] == "none"


@pytest.mark.skipif(_gpu.open_library("libcuda.so.1") is not None, reason="this host has a GPU driver")
def test_host_without_a_gpu():
    assert _gpu.gpu_facts()["gpus"] == []
    with pytest.raises(WarmstartError) as caught:
        _cuda.Cuda.load()
    assert caught.value.reason.code == "no_gpu"
    report = _gpu_method.check(Runner(), "auto", test=True)
    assert (report["ready"], report["method"], [reason["code"] for reason in report["reasons"]]) == (False, "none", ["no_gpu"])


def test_cdi_specification_is_found(tmp_path):
    (tmp_path / "nvidia.yaml").write_text("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: []\n")
    (tmp_path / "nvidia.json").write_text('{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu"}')
    (tmp_path / "other.yaml").write_text("kind: example.com/nic\n")
    assert _gpu.cdi_specs([tmp_path]) == [str(tmp_path / "nvidia.json"), str(tmp_path / "nvidia.yaml")]


@pytest.fixture
def cgroup():
    """A cgroup of the test's own with one below it, in the first hierarchy where the kernel lets us."""
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"):
        folder = Path(root, f"libpod-test-{os.getpid()}")
        if Path(root, "cgroup.procs").exists() and os.access(root, os.W_OK):
            (folder / "below").mkdir(parents=True)
            break
    else:
        pytest.skip("no cgroup can be made here")
    yield folder
    (folder / "below").rmdir()
    folder.rmdir()


def test_processes_of_a_container_come_from_its_cgroup_and_those_below(cgroup, sleepers):
    init, below, outside = sleepers
    (cgroup / "cgroup.procs").write_text(str(init))
    (cgroup / "below" / "cgroup.procs").write_text(str(below))
    try:
        assert _process.cgroup_pids(init) == sorted([init, below])
        assert _process.cgroup_pids(below) == sorted([init, below])
        assert outside not in _process.cgroup_pids(init)
    finally:
        for pid in (init, below):
            (cgroup.parent / "cgroup.procs").write_text(str(pid))


def test_processes_of_a_container_without_a_cgroup_are_its_descendants():
    shell = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60 & wait"])
    try:
        end = time.monotonic() + 5
        while len(_process.cgroup_pids(shell.pid)) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        pids = _process.cgroup_pids(shell.pid)
        assert len(pids) == 3
        assert os.getpid() not in pids
    finally:
        for pid in _process.cgroup_pids(shell.pid):
            os.kill(pid, 9)
        shell.wait()
    assert _process.cgroup_pids(shell.pid) == []
