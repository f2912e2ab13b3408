#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: podman_restore
short_description: Restore a checkpointed podman container and wait for its first token
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Restores a container in place or, with O(archive), from an archive, resumes its GPU processes, wakes its engine, and probes it to its
    first token, all in this one call and on one clock.
  - A container that runs but is suspended (M(gpufleet.warmstart.podman_suspend)) is resumed.
  - A container that runs already, from this checkpoint, and answers the probe is left alone.
  - If the restore fails, O(fallback) cold starts the server instead, and RV(reason) says why.
  - If nothing serves in the end, the host is as before. No partial container is left, and what was to be replaced has its name again.
requirements:
  - podman >= 4.0
  - CRIU >= 4.2 on kernels >= 6.16
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
  - gpufleet.warmstart.criu
  - gpufleet.warmstart.probe.suboption
  - gpufleet.warmstart.server.fallback
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
options:
  name:
    description: Name of the container. A restore from O(archive) gives it this name.
    type: str
    required: true
  archive:
    description:
      - Absolute path of the archive to restore from, on the managed host. Without it, the container is restored in place.
      - With a V(manifest.json) beside it, its digests are verified before podman opens it, once per boot and change of the file.
    type: path
  keep:
    description: Keep the checkpoint in place, so that it can be restored again.
    type: bool
    default: true
  publish:
    description: Ports to publish instead of those in the checkpoint, as C(podman run --publish) takes them. Needs O(archive).
    type: list
    elements: str
    default: []
  replace:
    description:
      - Replace the container that has O(name), if it was not restored from this archive. It is stopped for the restore, removed after
        success, and started again after failure. Needs O(archive).
    type: bool
    default: false
  tcp_established:
    description: Restore established TCP connections. podman refuses this for a restore under a new name, so not with O(archive).
    type: bool
    default: false
  tcp_close:
    description: Restore established TCP connections as closed. Needs podman >= 5.7.
    type: bool
    default: false
  ignore_static_ip:
    description: Take any free address instead of the container's static one.
    type: bool
    default: false
  ignore_static_mac:
    description: Take any MAC address instead of the container's static one.
    type: bool
    default: false
  ignore_rootfs:
    description: Do not apply the changes to the root filesystem that the archive holds. Needs O(archive).
    type: bool
    default: false
  ignore_volumes:
    description: Do not restore the content of named volumes that the archive holds. Needs O(archive).
    type: bool
    default: false
  print_stats:
    description: Ask podman for statistics, for the finer parts of RV(timings).
    type: bool
    default: true
  thp:
    description:
      - V(always) has the kernel use transparent huge pages for anonymous and shared memory while the restore lasts, and puts the host's own
        setting back afterwards. V(unchanged) leaves it.
    type: str
    choices: [always, unchanged]
    default: always
  gpu_map:
    description:
      - UUID of a GPU of the checkpoint to UUID of a GPU here, for each GPU of the checkpoint. Needs driver 580.
      - Without it, a GPU stays the same if it is here and has the memory free, else it becomes one of the same chip that has.
    type: dict
  allowed_signers:
    description:
      - Who may sign golden checkpoints, as the text of an C(allowed_signers) file (see C(man ssh-keygen).
      - With it, an archive is refused before anything opens it unless C(manifest.json.sig) beside it is a signature over C(manifest.json)
        by one of these keys, with the namespace V(gpufleet-warmstart). The manifest holds the archive's digests. Needs O(archive).
    type: str
  expect:
    description:
      - What the archive may bring to the host, although nobody declared it, see M(gpufleet.warmstart.podman_checkpoint_info). By
        default a restore refuses OCI hooks, CRIU options of the checkpoint's own, and mounts and privileges that are neither in the
        manifest nor in O(fallback).
      - What a signed manifest records needs not be named here. Needs O(archive).
    type: list
    elements: str
    choices: [hook, criu_config, mount, privileged]
    default: []
  check_oracle:
    description: >-
      Where the manifest has an oracle and O(probe) asks for tokens with the same prompt, refuse a restored server that answers another way
      than before it was frozen. Needs O(archive).
    type: bool
    default: true
seealso:
  - module: gpufleet.warmstart.podman_checkpoint
  - module: gpufleet.warmstart.podman_server
"""

EXAMPLES = r"""
- name: Restore in place and wait for the first token
  gpufleet.warmstart.podman_restore:
    name: llama
    probe:
      url: http://127.0.0.1:8000
  become: true

- name: Restore a golden checkpoint, or cold start the server if that fails
  gpufleet.warmstart.podman_restore:
    name: llama
    archive: /var/lib/gpufleet-warmstart/golden/llama/1/checkpoint.tar
    probe:
      url: http://127.0.0.1:8000
    fallback:
      image: localhost/llama-server:1
      command: [llama-server, --model, /models/small.gguf, --host, 0.0.0.0, --port, "8000"]
      volumes: ["/srv/models:/models:ro"]
      network: host
  become: true
"""

RETURN = r"""
path_taken:
  description: How the server came up - V(in_place), V(archive), V(resume), V(cold_start), or V(running) if it already was.
  returned: success
  type: str
  sample: archive
container_id:
  description: The container's full ID.
  returned: success, not in check mode
  type: str
  sample: e7e3ce59ddbbb2fafcb18156a46bef05c3cdae3a763c3cebaa243c5ddb11d3ce
probe:
  description: What the probe saw, as M(gpufleet.warmstart.inference_probe) returns it.
  returned: when O(probe) was given
  type: dict
  sample: {healthy_after: 0.34, first_token: 0.03, tokens: [" the"], model: small.gguf}
timings:
  description: >-
    Seconds; unpack (the archive's pages, the first time), podman (the command), criu (the runtime's part of it), forking and restore
    (CRIU's), resume (of GPU memory), engine_wake, healthy (waited after these), first_token (from its request), total (from unpack or
    the restore command to the first token).
  returned: success
  type: dict
  sample: {podman: 0.33, criu: 0.19, forking: 0.0, restore: 0.09, healthy: 0.01, first_token: 0.03, total: 0.37}
commands:
  description: The commands as run.
  returned: always
  type: list
  elements: list
  sample: [[podman, container, restore, --keep, --print-stats, llama]]
reason:
  description: Stable code of why the restore failed.
  returned: on failure, and when the server was cold started instead
  type: str
  sample: image_missing
fix:
  description: What to do about it.
  returned: with RV(reason)
  type: str
  sample: Pull that image by digest before the restore; a moved tag has another ID.
restore_reason:
  description: Stable code of why the restore failed, when the cold start after it failed too.
  returned: when both failed
  type: str
  sample: archive_corrupt
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._findings import EXPECTABLE
from ansible_collections.gpufleet.warmstart.plugins.module_utils._module import run_module
from ansible_collections.gpufleet.warmstart.plugins.module_utils._podman import SERVER_OPTIONS, Podman
from ansible_collections.gpufleet.warmstart.plugins.module_utils._probe import PROBE_SUBOPTION
from ansible_collections.gpufleet.warmstart.plugins.module_utils._restore import FLAGS, Options, restore
from ansible_collections.gpufleet.warmstart.plugins.module_utils._server import probe_container


def run(module: AnsibleModule, runner: Runner) -> dict:
    params = dict(module.params)
    probe_options = params.pop("probe")
    params["archive"] = Path(params["archive"]) if params["archive"] else None
    options = Options(**params)
    podman = Podman(runner)
    return restore(podman, options, probe_container(podman, options.name, probe_options), module.check_mode)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "archive": {"type": "path"},
            "publish": {"type": "list", "elements": "str", "default": []},
            "replace": {"type": "bool", "default": False},
            **{flag: {"type": "bool", "default": flag in ("keep", "print_stats")} for flag in FLAGS},
            "criu_path": {"type": "path"},
            "criu_config": {"type": "dict"},
            "thp": {"type": "str", "choices": ["always", "unchanged"], "default": "always"},
            "gpu_map": {"type": "dict"},
            "allowed_signers": {"type": "str"},
            "check_oracle": {"type": "bool", "default": True},
            "expect": {"type": "list", "elements": "str", "choices": list(EXPECTABLE), "default": []},
            "probe": PROBE_SUBOPTION,
            "fallback": {"type": "dict", "options": SERVER_OPTIONS},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
