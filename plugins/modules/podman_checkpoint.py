#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: podman_checkpoint
short_description: Checkpoint a running podman container in place or into an archive
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Freezes a running container with podman and CRIU, in place or, with O(archive), as a file that other hosts can restore.
  - An archive is written beside its final name, read back, and renamed only when it is whole; C(manifest.json) beside it says what
    it holds, which hosts it fits, and its digests.
  - A checkpoint that fails leaves the container serving as before, and the last good checkpoint as it was.
requirements:
  - podman >= 4.0
  - CRIU >= 4.2 on kernels >= 6.16
  - zstd (the program), to read back an archive with O(compress=zstd)
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
  - gpufleet.warmstart.criu
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
options:
  name:
    description: Name or ID of the container.
    type: str
    required: true
  archive:
    description:
      - Absolute path of the archive to write. Without it, the checkpoint stays in place, in podman's own storage.
      - Give each archive a folder of its own, since V(manifest.json) is written beside it. The folder is made with mode 0700.
    type: path
  compress:
    description: Compression of the archive. Restoring an uncompressed one is fastest.
    type: str
    choices: [none, zstd, gzip]
    default: none
  keep:
    description: Keep CRIU's log and statistics and, with O(archive), also the checkpoint in place.
    type: bool
    default: false
  leave_running:
    description:
      - Let the container go on after the checkpoint instead of stopping it.
      - With O(archive), a container that uses unlinked POSIX semaphores (Python's multiprocessing) is stopped and restored in place to
        that end, since CRIU would leave them out of the archive otherwise.
    type: bool
    default: false
  tcp_established:
    description: Checkpoint established TCP connections too, instead of refusing them.
    type: bool
    default: false
  file_locks:
    description: Checkpoint file locks too, instead of refusing them.
    type: bool
    default: false
  ignore_rootfs:
    description: Leave changes to the container's root filesystem out of the archive. Needs O(archive).
    type: bool
    default: false
  ignore_volumes:
    description: Leave the content of named volumes out of the archive. Needs O(archive).
    type: bool
    default: false
  print_stats:
    description: Ask podman for statistics, for the finer parts of RV(timings).
    type: bool
    default: true
  model:
    description: Name of the model that the server serves, for the manifest. Needs O(archive).
    type: str
  oracle:
    description: What the server answered before the checkpoint, for the manifest; a restored server must answer the same. Needs O(archive).
    type: dict
    suboptions:
      prompt:
        description: The prompt; the default is that of M(gpufleet.warmstart.inference_probe).
        type: str
        default: The capital of France is
      tokens:
        description: The tokens of the answer.
        type: list
        elements: str
        required: true
      first_token:
        description: Seconds from the request to the first token.
        type: float
  metadata:
    description: Anything to keep in the manifest under C(metadata), such as cold-start timings. Needs O(archive).
    type: dict
  gpu_method:
    description:
      - How to suspend the container's GPU processes before the dump. V(auto) takes the first that works here, V(criu_plugin)
        leaves it to CRIU.
      - On a host without an NVIDIA driver nothing is suspended.
    type: str
    choices: [auto, driver_api, cuda_checkpoint, criu_plugin, none]
    default: auto
  lock_timeout:
    description: Seconds to wait for CUDA work that is under way before the suspend.
    type: float
    default: 10.0
  sleep_level:
    description:
      - How deep the engine sleeps before its GPU processes are suspended, where it can sleep; V(0) keeps it awake.
      - V(1) moves the weights to host memory and drops the KV pool, V(2) drops both, and loads the weights again on waking.
    type: int
    choices: [0, 1, 2]
    default: 1
  force:
    description: Take a new checkpoint even if the last one was taken since the container last began to run.
    type: bool
    default: false
seealso:
  - module: gpufleet.warmstart.podman_restore
  - module: gpufleet.warmstart.podman_checkpoint_info
"""

EXAMPLES = r"""
- name: Freeze the server in place
  gpufleet.warmstart.podman_checkpoint:
    name: llama
  become: true

- name: Take a golden checkpoint while the server goes on serving
  gpufleet.warmstart.podman_checkpoint:
    name: llama
    archive: /var/lib/gpufleet-warmstart/golden/llama/1/checkpoint.tar
    leave_running: true
  become: true

- name: Run a hook before the dump, and allow large deleted files
  gpufleet.warmstart.podman_checkpoint:
    name: llama
    criu_config:
      action-script: /usr/local/sbin/drain
      ghost-limit: 1G
  become: true
"""

RETURN = r"""
location:
  description: The archive, or the folder in podman's storage.
  returned: success
  type: str
  sample: /var/lib/gpufleet-warmstart/golden/llama/1/checkpoint.tar
size:
  description: Bytes of the archive, or of the images in place.
  returned: when a checkpoint was taken
  type: int
  sample: 92611584
parts:
  description: Bytes per part of the checkpoint, uncompressed (pages, gpu_pages, criu, shared_memory, root_diff, volumes, metadata).
  returned: when a checkpoint was taken
  type: dict
  sample: {pages: 90112000, criu: 18350, root_diff: 1536}
manifest:
  description: The manifest as written beside the archive.
  returned: with O(archive)
  type: dict
timings:
  description: >-
    Seconds; engine_sleep, suspend (of GPU memory), podman (the command), criu (the runtime's part of it), freezing, frozen, dump and
    write (CRIU's), verify (reading the archive back), resume and engine_wake or brought_back (where it goes on), total.
  returned: success
  type: dict
  sample: {podman: 0.93, criu: 0.26, freezing: 0.1, frozen: 0.1, dump: 0.05, write: 0.03, verify: 0.1, total: 1.1}
commands:
  description: The commands as run.
  returned: always
  type: list
  elements: list
  sample: [[podman, container, checkpoint, --print-stats, llama]]
container_state:
  description: The container's state after the failure.
  returned: on failure of the checkpoint
  type: str
  sample: running
reason:
  description: Stable code of why it failed.
  returned: on failure
  type: str
  sample: tcp_established
fix:
  description: What to do about it.
  returned: on failure
  type: str
  sample: "Checkpoint before clients connect, or set tcp_established: true."
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.warmstart.plugins.module_utils._checkpoint import COMPRESS, Options, checkpoint, is_current
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._freeze import METHODS
from ansible_collections.gpufleet.warmstart.plugins.module_utils._module import run_module
from ansible_collections.gpufleet.warmstart.plugins.module_utils._podman import Podman
from ansible_collections.gpufleet.warmstart.plugins.module_utils._probe import PROBE_OPTIONS


def run(module: AnsibleModule, runner: Runner) -> dict:
    archive = module.params["archive"]
    options = Options(**{**module.params, "archive": Path(archive) if archive else None})
    podman = Podman(runner)
    container = podman.get(options.name)
    current = is_current(container, options)
    if current:
        return {"changed": False, "timings": {}, **current}
    if module.check_mode:
        container.require_running()
        return {"changed": True, "timings": {}, "location": str(archive or container.userdata / "checkpoint")}
    return {"changed": True, **checkpoint(podman, container, options)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "archive": {"type": "path"},
            "compress": {"type": "str", "choices": list(COMPRESS), "default": "none"},
            "keep": {"type": "bool", "default": False},
            "leave_running": {"type": "bool", "default": False},
            "tcp_established": {"type": "bool", "default": False},
            "file_locks": {"type": "bool", "default": False},
            "ignore_rootfs": {"type": "bool", "default": False},
            "ignore_volumes": {"type": "bool", "default": False},
            "print_stats": {"type": "bool", "default": True},
            "criu_path": {"type": "path"},
            "criu_config": {"type": "dict"},
            "model": {"type": "str"},
            "oracle": {
                "type": "dict",
                "options": {
                    "prompt": {"type": "str", "default": PROBE_OPTIONS["prompt"]["default"]},
                    "tokens": {"type": "list", "elements": "str", "required": True, "no_log": False},
                    "first_token": {"type": "float", "no_log": False},
                },
            },
            "metadata": {"type": "dict"},
            "gpu_method": {"type": "str", "choices": list(METHODS), "default": "auto"},
            "lock_timeout": {"type": "float", "default": 10.0},
            "sleep_level": {"type": "int", "choices": [0, 1, 2], "default": 1},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
