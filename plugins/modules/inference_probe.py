#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: inference_probe
short_description: Wait for an inference server and time its first token
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Polls an OpenAI-compatible server (vLLM, SGLang, llama.cpp and others) every 10 ms until it is healthy.
  - Then, where asked to, checks its model, sends warm-up requests, and streams an answer to time the first token.
  - Changes nothing. Warm-up requests fill the server's caches, which is no change that a playbook could see or undo.
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
  - gpufleet.warmstart.probe
attributes:
  check_mode:
    support: full
    details: All requests are sent in check mode too, warm-up requests included, since none of them changes anything.
  diff_mode:
    support: none
    details: It changes nothing.
seealso:
  - module: gpufleet.warmstart.podman_restore
    description: Restores a server and probes it in one call, so that no round trip of Ansible's is in the time.
  - module: ansible.builtin.wait_for
    description: Waits for a port, which servers open long before they are healthy.
"""

EXAMPLES = r"""
- name: Wait up to 10 minutes for a server to become healthy
  gpufleet.warmstart.inference_probe:
    url: http://127.0.0.1:8000
    timeout: 600

- name: Send 5 warm-up requests, then time the first token
  gpufleet.warmstart.inference_probe:
    url: http://127.0.0.1:8000
    warmup_requests: 5
    first_token: true
  register: probe

- name: Show it
  ansible.builtin.debug:
    msg: "{{ probe.model }}: first token after {{ probe.first_token }} s, {{ probe.text }}"

- name: Wait until a certain model is listed, and ask it through the chat API with an API key
  gpufleet.warmstart.inference_probe:
    url: https://llm.example.com
    health_path: /v1/models
    condition: "data[?id=='Qwen/Qwen2-1.5B-Instruct']"
    model: Qwen/Qwen2-1.5B-Instruct
    first_token: true
    api: chat
    headers:
      Authorization: "Bearer {{ llm_api_key }}"
  delegate_to: localhost
"""

RETURN = r"""
healthy_after:
  description: Seconds until the server was healthy and O(condition) true.
  returned: when it became healthy
  type: float
  sample: 4.212
attempts:
  description: How often it was asked for its health.
  returned: when it was asked
  type: int
  sample: 398
status:
  description: HTTP status of the last answer; on failure of the answer that was the failure.
  returned: when there was one
  type: int
  sample: 200
body:
  description: Beginning of the last answer, on one line.
  returned: on failure, when there was one
  type: str
  sample: '{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
model:
  description: The model that was asked, O(model) or the first that the server lists.
  returned: when O(model), O(warmup_requests) or O(first_token) is set
  type: str
  sample: Qwen/Qwen2-1.5B-Instruct
warmup:
  description: Seconds for each warm-up request, from sending it to the end of its answer.
  returned: when it became healthy
  type: list
  elements: float
  sample: [0.41, 0.08, 0.08]
first_token:
  description: Seconds from sending the request to its first piece of text.
  returned: when O(first_token=true)
  type: float
  sample: 0.023
tokens:
  description: The pieces of text as the server sent them, in most engines one for each token. They are chosen greedily.
  returned: when O(first_token=true)
  type: list
  elements: str
  sample: [" Paris", ".", " It"]
text:
  description: RV(tokens) in one string.
  returned: when O(first_token=true)
  type: str
  sample: " Paris. It"
timings:
  description: Seconds; healthy as RV(healthy_after), RV(first_token), and total, which is everything, warm-up requests included.
  returned: success
  type: dict
  sample: {healthy: 4.212, first_token: 0.023, total: 4.814}
commands:
  description: The commands as run. Always empty, since it runs none.
  returned: always
  type: list
  elements: list
  sample: []
reason:
  description:
    - Why it failed, a stable code.
    - While it waits, V(refused), V(unreachable), V(timed_out), V(unhealthy) and V(condition_false) tell what the last request met.
    - Later, V(wrong_model), V(request_failed), V(malformed_stream), V(no_tokens).
    - Before anything is sent, V(bad_input) and V(dependency_missing).
  returned: on failure
  type: str
  sample: unhealthy
fix:
  description: What to do about it.
  returned: on failure
  type: str
  sample: Read the server's log (podman logs NAME).
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._module import run_module
from ansible_collections.gpufleet.warmstart.plugins.module_utils._probe import PROBE_OPTIONS, Probe
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError


def work(module: AnsibleModule, _runner: Runner) -> dict:
    try:
        probe = Probe(module.params)
        started = time.monotonic()
        result = probe.run(started)
    except WarmstartError as error:
        error.facts.update(error.facts.pop("probe", {}))
        raise
    timings = {"healthy": result["healthy_after"], "total": time.monotonic() - started}
    if "first_token" in result:
        timings["first_token"] = result["first_token"]
    return {"changed": False, **result, "timings": timings}


def main() -> None:
    run_module(AnsibleModule(argument_spec=PROBE_OPTIONS, supports_check_mode=True), work, needs_root=False)


if __name__ == "__main__":
    main()
