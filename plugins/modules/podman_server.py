#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: podman_server
short_description: Cold start an inference server in a podman container, or remove it
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Starts the declared server with C(podman run) and, with O(probe), waits for its first token, all timed from the start command.
  - A server that runs already, was started from the same declaration and answers the probe is left alone.
  - A server that does not start, or never serves, is removed again.
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
  - gpufleet.warmstart.probe.suboption
  - gpufleet.warmstart.server
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
options:
  name:
    description: Name of the container.
    type: str
    required: true
  state:
    description:
      - V(started) has the server running as declared; one that differs from the declaration is replaced.
      - V(stopped) has it not running, with its checkpoint in place kept.
      - V(absent) has no container of that name, nor its anonymous volumes and checkpoints in place.
    type: str
    choices: [started, stopped, absent]
    default: started
seealso:
  - module: gpufleet.warmstart.podman_checkpoint
  - module: gpufleet.warmstart.podman_restore
"""

EXAMPLES = r"""
- name: Cold start a server and wait for its first token
  gpufleet.warmstart.podman_server:
    name: llama
    server:
      image: localhost/llama-server:1
      command: [llama-server, --model, /models/small.gguf, --host, 0.0.0.0, --port, "8000"]
      volumes: ["/srv/models:/models:ro"]
      network: host
    probe:
      url: http://127.0.0.1:8000
  become: true

- name: Remove it
  gpufleet.warmstart.podman_server:
    name: llama
    state: absent
  become: true
"""

RETURN = r"""
container_id:
  description: The container's full ID.
  returned: when O(state=started) and not in check mode
  type: str
  sample: 9566399db811e925abd71195fd2b5ce4e5dd517f5c5daad05eebccf201e9da42
probe:
  description: What the probe saw, as M(gpufleet.warmstart.inference_probe) returns it.
  returned: when O(probe) was given
  type: dict
  sample: {healthy_after: 4.21, first_token: 0.03, tokens: [" the"], model: small.gguf}
profile:
  description: What the engine's profile added to the declaration, and why.
  returned: when the server was started
  type: list
  elements: dict
  sample: [{item: VLLM_NO_USAGE_STATS=1, why: "no connection to the outside, which no other host could restore"}]
timings:
  description: Seconds; podman (the command), healthy (waited after it), first_token (from its request), total.
  returned: when O(state=started)
  type: dict
  sample: {podman: 0.31, healthy: 3.9, first_token: 0.03, total: 4.24}
commands:
  description: The commands as run.
  returned: always
  type: list
  elements: list
  sample: [[podman, container, inspect, llama]]
reason:
  description: Stable code of why it failed.
  returned: on failure
  type: str
  sample: port_in_use
fix:
  description: What to do about it.
  returned: on failure
  type: str
  sample: Stop that process, or publish another port.
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._module import run_module
from ansible_collections.gpufleet.warmstart.plugins.module_utils._podman import SERVER_OPTIONS, Podman, declaration_digest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._probe import PROBE_SUBOPTION
from ansible_collections.gpufleet.warmstart.plugins.module_utils._server import (
    cold_start,
    probe_container,
    remove,
    still_serving,
    stop,
)


def run(module: AnsibleModule, runner: Runner) -> dict:
    name, server = module.params["name"], module.params["server"]
    podman = Podman(runner)
    container = podman.inspect(name)
    if module.params["state"] == "absent":
        if container and not module.check_mode:
            remove(podman, name)
        return {"changed": container is not None}
    if module.params["state"] == "stopped":
        running = container is not None and container.running
        if running and not module.check_mode:
            stop(podman, name)
        return {"changed": running}
    probe = probe_container(podman, name, module.params["probe"])
    if container and container.running and container.declaration == declaration_digest(server):
        return {"changed": False, "container_id": container.id, **still_serving(probe)}
    if module.check_mode:
        return {"changed": True, "timings": {}}
    if container:
        remove(podman, name)
    return {"changed": True, **cold_start(podman, name, server, probe)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["started", "stopped", "absent"], "default": "started"},
            "server": {"type": "dict", "options": SERVER_OPTIONS},
            "probe": PROBE_SUBOPTION,
        },
        required_if=[("state", "started", ("server",))],
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
