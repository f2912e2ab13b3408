#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_lock
short_description: Keep two rollouts from working on one host at the same time
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Holds a lock on the host for the C(ansible-playbook) process that asks. Another one is refused, and told who holds it.
  - The lock of a process that has ended on the same controller is taken over. It does not outlive a reboot of the host.
notes:
  - An action plugin of the same name finds out on the controller which process asks.
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
attributes:
  check_mode:
    support: none
    details: It is skipped.
  diff_mode:
    support: none
options:
  what:
    description: What is rolled out, for those who are refused.
    type: str
    required: true
  state:
    description: Take the lock or give it up.
    type: str
    choices: [present, absent]
    default: present
  holder:
    description: Set by the action plugin.
    type: dict
  gone:
    description: Set by the action plugin.
    type: dict
"""

EXAMPLES = r"""
- name: Lock the host
  gpufleet.warmstart.rollout_lock:
    what: llama 2
  become: true
"""

RETURN = r"""
holder:
  description: Who holds the lock, where that is somebody else.
  returned: on failure
  type: dict
  sample: {controller: deploy1, user: ops, pid: 4711, began: "8123456", what: llama 2, since: "2026-11-22T01:14:00+0000"}
reason:
  description: Stable code of why it failed.
  returned: on failure
  type: str
  sample: locked
fix:
  description: What to do about it.
  returned: on failure
  type: str
  sample: Wait until it is done. If its controller is gone for good, remove the lock's file.
commands:
  description: The commands as run; none.
  returned: always
  type: list
  elements: list
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _lock
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._module import run_module


def run(module: AnsibleModule, runner: Runner) -> dict:
    wanted = {**module.params["holder"], "what": module.params["what"]}
    if module.params["state"] == "absent":
        _lock.release(wanted)
    else:
        _lock.acquire(wanted, module.params["gone"])
    # A lock is no state of the host that anybody declared, so holding it is no change.
    return {"changed": False}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "what": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "holder": {"type": "dict"},
            "gone": {"type": "dict"},
        },
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
