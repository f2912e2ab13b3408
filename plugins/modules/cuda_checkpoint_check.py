#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cuda_checkpoint_check
short_description: Say whether and how this host can checkpoint GPU memory
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Reads the driver's version and what it can do, the GPUs, and where NVIDIA's C(cuda-checkpoint) binary, CRIU's CUDA plugin and CDI
    specifications are.
  - Picks the method that the other modules would use, and says why.
  - On a host without a GPU the method is V(none), with the reason; that is no failure unless O(required=true).
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
attributes:
  check_mode:
    support: full
    details: It changes nothing; the self-test runs in check mode too.
  diff_mode:
    support: none
    details: It changes nothing.
options:
  method:
    description: Ask for this method; V(auto) takes the first that the host has.
    type: str
    choices: [auto, driver_api, cuda_checkpoint, criu_plugin]
    default: auto
  image:
    description:
      - An image on this host, by name; a driver that cannot run its CUDA is a reason (V(cuda_too_new)).
      - Images based on NVIDIA's tell their CUDA in C(CUDA_VERSION); others pass.
    type: str
  self_test:
    description:
      - Also start a small CUDA process (64 MiB of GPU memory), suspend it, resume it and compare its memory.
      - Takes a second or two, and needs root.
    type: bool
    default: false
  required:
    description: Fail where the host is not ready.
    type: bool
    default: false
seealso:
  - module: gpufleet.warmstart.criu_check
    description: The same for CRIU and the kernel.
"""

EXAMPLES = r"""
- name: Which way of checkpointing GPU memory does this host have?
  gpufleet.warmstart.cuda_checkpoint_check:
  register: cuda

- name: Show it
  ansible.builtin.debug:
    msg: "{{ cuda.method }}: {{ cuda.why }}"

- name: Can the driver run the image's CUDA?
  gpufleet.warmstart.cuda_checkpoint_check:
    image: docker.io/vllm/vllm-openai:v0.26.0
    required: true
  become: true

- name: Try it, and stop where it does not work
  gpufleet.warmstart.cuda_checkpoint_check:
    self_test: true
    required: true
  become: true
"""

RETURN = r"""
ready:
  description: Whether GPU memory can be checkpointed here; with O(self_test=true), whether it was.
  returned: always
  type: bool
  sample: true
reasons:
  description: What is wrong. Those that are not certain are warnings.
  returned: always
  type: list
  elements: dict
  sample: [{code: mps_on, message: An MPS daemon runs., fix: "Stop it: echo quit | nvidia-cuda-mps-control.", detail: "", certain: true}]
method:
  description: The method that modules would use, or V(none).
  returned: always
  type: str
  sample: driver_api
why:
  description: Why it is this one.
  returned: always
  type: str
  sample: Driver 580.159.04 has the checkpoint functions; nothing else is needed.
driver:
  description: The driver's version, empty where there is none.
  returned: always
  type: str
  sample: 580.159.04
capabilities:
  description: What this driver's branch can do.
  returned: always
  type: dict
  sample: {containers: true, toggle: true, action: true, driver_api: true, gpu_map: true, launch_job: false, cuda_ipc: false}
gpus:
  description: The GPUs; memory in bytes.
  returned: always
  type: list
  elements: dict
  sample:
    - index: 0
      name: NVIDIA H100 80GB HBM3
      uuid: GPU-8b7ea2d9-5f0c-1b32-6a8c-0b8a3d9d5a52
      memory_total: 85520809984
      memory_free: 84948942848
      compute_capability: "9.0"
      mig: false
      persistence: true
mps:
  description: Whether NVIDIA's MPS daemon runs.
  returned: always
  type: bool
  sample: false
binary:
  description: Path of NVIDIA's C(cuda-checkpoint) binary, empty where there is none.
  returned: always
  type: str
  sample: /usr/local/bin/cuda-checkpoint
plugin:
  description: Path of CRIU's CUDA plugin, empty where there is none.
  returned: always
  type: str
  sample: /usr/lib/criu/cuda_plugin.so
cdi:
  description: CDI specifications for NVIDIA GPUs, which C(podman run --device nvidia.com/gpu=0) needs.
  returned: always
  type: list
  elements: str
  sample: [/etc/cdi/nvidia.yaml]
self_test:
  description: Bytes of GPU memory that the small process held at each step, and the seconds each took.
  returned: when O(self_test=true) and it passed
  type: dict
  sample:
    memory: {running: 591396864, suspended: 0, resumed: 591396864}
    timings: {cuda_process: 0.41, lock: 0.01, cuda_checkpoint: 0.32, suspend: 0.34, cuda_restore: 0.21, unlock: 0.01, resume: 0.23}
timings:
  description: Seconds; total.
  returned: always
  type: dict
  sample: {total: 0.12}
commands:
  description: The commands as run.
  returned: always
  type: list
  elements: list
  sample: []
reason:
  description: Stable code of the first thing that is wrong.
  returned: on failure
  type: str
  sample: no_gpu
fix:
  description: What to do about it.
  returned: on failure
  type: str
  sample: Install the driver and check that nvidia-smi lists the GPU.
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._gpu_method import check
from ansible_collections.gpufleet.warmstart.plugins.module_utils._module import run_module
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError


def work(module: AnsibleModule, runner: Runner) -> dict:
    began = time.monotonic()
    result = check(runner, module.params["method"], module.params["self_test"], module.params["image"])
    result["timings"] = {"total": time.monotonic() - began}
    if module.params["required"] and not result["ready"]:
        first = next(reason for reason in result["reasons"] if reason["certain"])
        raise WarmstartError(first["code"], first["detail"], **result)
    return {"changed": False, **result}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "method": {"type": "str", "choices": ["auto", "driver_api", "cuda_checkpoint", "criu_plugin"], "default": "auto"},
            "image": {"type": "str"},
            "self_test": {"type": "bool", "default": False},
            "required": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run_module(module, work, needs_root=bool(module.params["self_test"] or module.params["image"]))


if __name__ == "__main__":
    main()
