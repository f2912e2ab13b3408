#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: podman_suspend
short_description: Suspend the GPU processes of a podman container, or resume them
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Suspending moves everything that the container holds in GPU memory to host memory and gives the GPU free; the processes stay alive.
    CUDA calls that they make meanwhile wait. Resuming moves it back.
  - Finds the processes by the container's cgroup. All are locked first, then all are moved, in parallel.
  - When something fails, the processes are put back to the state they were in. A container that a killed run left half done is
    brought to the state asked for.
  - Before a resume the GPU's free memory is checked, since a process that runs out of it while it resumes is lost.
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
  - gpufleet.warmstart.probe.suboption
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
options:
  name:
    description: Name or ID of the container, which must be running.
    type: str
    required: true
  state:
    description: Where the container's GPU memory is to be, in host memory (V(suspended)) or on the GPU (V(running)).
    type: str
    choices: [suspended, running]
    required: true
  lock_timeout:
    description:
      - Seconds to wait for CUDA work that runs already, such as a request in flight.
      - When they are over, the module fails with reason C(lock_timeout) and the server goes on.
    type: float
    default: 10.0
  gpu_method:
    description: The way to do it; V(auto) takes the driver API where there is one, else NVIDIA's C(cuda-checkpoint) binary.
    type: str
    choices: [auto, driver_api, cuda_checkpoint]
    default: auto
  sleep_level:
    description:
      - How deep the engine sleeps before the suspend, where it can sleep; V(0) keeps it awake. It is woken after a resume.
      - V(1) moves the weights to host memory and drops the KV pool, V(2) drops both, and loads the weights again on waking.
    type: int
    choices: [0, 1, 2]
    default: 1
seealso:
  - module: gpufleet.warmstart.cuda_checkpoint_check
    description: Says which method a host has, and tries it.
  - module: gpufleet.warmstart.podman_checkpoint
    description: Writes the whole container to files, GPU memory included.
"""

EXAMPLES = r"""
- name: Give the GPU free for another model
  gpufleet.warmstart.podman_suspend:
    name: qwen
    state: suspended
  become: true

- name: Put it back on the GPU
  gpufleet.warmstart.podman_suspend:
    name: qwen
    state: running
  become: true
"""

RETURN = r"""
state:
  description: What the container was before and is now. V(half_done) is what a run leaves that was killed.
  returned: success
  type: dict
  sample: {before: running, after: suspended}
processes:
  description: The container's processes that use CUDA, and the driver's word for their state.
  returned: when the driver was asked
  type: list
  elements: dict
  sample: [{pid: 4711, state: checkpointed}]
gpu_memory:
  description: Bytes that these processes hold on each GPU, by its UUID. Equal in check mode.
  returned: success
  type: dict
  sample:
    before: {GPU-8b7ea2d9-5f0c-1b32-6a8c-0b8a3d9d5a52: 4831838208}
    after: {}
method:
  description: The method used.
  returned: success
  type: str
  sample: driver_api
probe:
  description: What the probe saw, as M(gpufleet.warmstart.inference_probe) returns it.
  returned: when O(probe) was given and O(state=running) resumed the container
  type: dict
  sample: {healthy_after: 0.7, first_token: 0.07, tokens: [" the"], model: qwen}
timings:
  description:
    - To suspend, seconds of engine_sleep and suspend, with its parts lock (waiting for running work) and cuda_checkpoint (moving memory).
    - To resume, seconds of resume, with its parts cuda_restore (moving memory) and unlock, engine_wake, and with O(probe) healthy,
      first_token and total, from the resume to the first token.
  returned: success
  type: dict
  sample: {engine_sleep: 0.9, lock: 0.01, cuda_checkpoint: 1.43, suspend: 1.45}
commands:
  description: The commands as run.
  returned: always
  type: list
  elements: list
  sample: [[podman, container, inspect, qwen]]
reason:
  description: Stable code of why it failed.
  returned: on failure
  type: str
  sample: gpu_memory
fix:
  description: What to do about it.
  returned: on failure
  type: str
  sample: Stop or suspend what uses it, then resume again.
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _cuda
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._freeze import freeze, read_record, record_path
from ansible_collections.gpufleet.warmstart.plugins.module_utils._gpu import Nvml
from ansible_collections.gpufleet.warmstart.plugins.module_utils._gpu_method import api_for, pick_method
from ansible_collections.gpufleet.warmstart.plugins.module_utils._module import run_module
from ansible_collections.gpufleet.warmstart.plugins.module_utils._podman import Podman
from ansible_collections.gpufleet.warmstart.plugins.module_utils._probe import PROBE_SUBOPTION
from ansible_collections.gpufleet.warmstart.plugins.module_utils._process import cgroup_pids
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError
from ansible_collections.gpufleet.warmstart.plugins.module_utils._restore import resume
from ansible_collections.gpufleet.warmstart.plugins.module_utils._server import probe_container


def gpu_memory(pids: list[int]) -> dict[str, int]:
    total: dict[str, int] = {}
    for held in Nvml.load().process_memory(pids).values():
        for gpu, size in held.items():
            total[gpu] = total.get(gpu, 0) + size
    return total


def work(module: AnsibleModule, runner: Runner) -> dict:
    name, wanted, method, lock_timeout = (module.params[key] for key in ("name", "state", "gpu_method", "lock_timeout"))
    if lock_timeout <= 0:
        raise WarmstartError("bad_input", f"lock_timeout is {lock_timeout:g}; it must be more than 0 seconds.")
    if method != "cuda_checkpoint":
        _cuda.Cuda.preload()
    podman = Podman(runner)
    probe = probe_container(podman, name, module.params["probe"])
    container = podman.get(name)
    if container.state["Status"] == "paused":
        raise WarmstartError("container_paused", f"Container {name}.")
    container.require_running()
    picked = pick_method(method)
    api = api_for(picked["method"], runner, picked["why"])
    pids = cgroup_pids(container.pid)
    found = _cuda.states(pids, api)
    if not found:
        raise WarmstartError("no_cuda_process", f"Container {name} has {len(pids)} processes.")
    before, memory = _cuda.overall(found), gpu_memory(pids)
    result: dict = {"changed": before != wanted, "timings": {}}
    if not module.check_mode and result["changed"]:
        if wanted == "suspended":
            result["timings"] = freeze(runner, container, method, module.params["sleep_level"], lock_timeout)[1]
        else:
            result.update(resume(podman, container, read_record(record_path(container)), None, probe))
    after = wanted if result["changed"] else before
    return {
        **result,
        "state": {"before": before, "after": after},
        "diff": {"before": {"state": before}, "after": {"state": after}},
        "processes": _cuda.listed(found if module.check_mode else _cuda.states(pids, api)),
        "gpu_memory": {"before": memory, "after": memory if module.check_mode else gpu_memory(pids)},
        "method": api.method,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["suspended", "running"], "required": True},
            "gpu_method": {"type": "str", "choices": ["auto", "driver_api", "cuda_checkpoint"], "default": "auto"},
            "lock_timeout": {"type": "float", "default": 10.0},
            "sleep_level": {"type": "int", "choices": [0, 1, 2], "default": 1},
            "probe": PROBE_SUBOPTION,
        },
        supports_check_mode=True,
    )
    run_module(module, work)


if __name__ == "__main__":
    main()
