#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: criu_check
short_description: Say whether this host can checkpoint and restore, and why not
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Asks CRIU itself (C(criu check), never C(criu check --all), which warns of what no container needs), looks the kernel and the version
    of CRIU up in a table of known failures, and shows the configuration files in force.
  - Some failures cannot be seen this way. They have RV(reasons[].certain=false), or no sign at all, so take a checkpoint of a small
    container too, as role P(gpufleet.warmstart.prerequisites#role) does.
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
attributes:
  check_mode:
    support: full
    details: Only reads.
  diff_mode:
    support: none
options:
  criu_path:
    description: The criu program to ask instead of the one in C(PATH).
    type: path
  features:
    description: Features that must be there, by the names that C(criu --help) lists, for example V(uffd) or V(network_lock_nftables).
    type: list
    elements: str
    default: []
  required:
    description: Fail if the host is not ready. Otherwise the module succeeds and says so in RV(ready).
    type: bool
    default: false
seealso:
  - module: gpufleet.warmstart.podman_checkpoint
  - module: gpufleet.warmstart.cuda_checkpoint_check
"""

EXAMPLES = r"""
- name: Ask whether the host is ready
  gpufleet.warmstart.criu_check:
  become: true
  register: criu

- name: Show why not
  ansible.builtin.debug:
    msg: "{{ criu.reasons | map(attribute='fix') }}"
  when: not criu.ready

- name: Stop unless another CRIU has these features
  gpufleet.warmstart.criu_check:
    criu_path: /opt/criu/sbin/criu
    features: [uffd, network_lock_nftables]
    required: true
  become: true
"""

RETURN = r"""
ready:
  description: Whether nothing is known that would make a checkpoint or restore fail for certain.
  returned: when it ran to its end
  type: bool
  sample: true
reasons:
  description: What is or may be wrong.
  returned: when it ran to its end
  type: list
  elements: dict
  sample:
    - code: so_passcred_kernel
      message: "This CRIU is too old for this kernel: since Linux 6.16 it fails on SO_PASSCRED of every TCP socket."
      fix: Install CRIU 4.2 or newer.
      detail: "Linux 6.18.44 with CRIU 4.1.1: the dump of any TCP socket ends with `Can't get 1:16 opt`; fixed in CRIU 4.2 (criu#2705)."
      certain: true
  contains:
    code:
      description: The reason, a stable code.
      type: str
    message:
      description: The reason in one sentence.
      type: str
    fix:
      description: What to do about it.
      type: str
    detail:
      description: What was seen, and where.
      type: str
    certain:
      description:
        - V(false) where a distribution may have backported the fix, or where it depends on what runs in the container. Such a reason does
          not make the host unready.
      type: bool
version:
  description: Version of CRIU, empty if it is missing.
  returned: when it ran to its end
  type: str
  sample: 4.2.1
criu_path:
  description: The criu program that was asked.
  returned: when it ran to its end
  type: str
  sample: /usr/sbin/criu
kernel:
  description: Release of the running kernel.
  returned: when it ran to its end
  type: str
  sample: 6.18.44-amd64
features:
  description: Each of O(features), and whether CRIU finds it.
  returned: when it ran to its end
  type: dict
  sample: {uffd: true, mem_dirty_track: false}
config:
  description: The CRIU configuration files that exist, in the order CRIU reads them, with their options.
  returned: when it ran to its end
  type: dict
  sample: {/etc/criu/default.conf: {ghost-limit: 1G, network-lock: nftables, timeout: "300"}, /etc/criu/crun.conf: {link-remap: true}}
runtimes:
  description:
    - Of each runtime found, its path, whether it was built to checkpoint, and the configuration file whose options it puts over all others
      (empty where it has none).
  returned: when it ran to its end
  type: dict
  sample: {crun: {path: /usr/bin/crun, checkpoints: true, config_file: /etc/criu/crun.conf}}
timings:
  description: Seconds the check took.
  returned: when it ran to its end
  type: dict
  sample: {total: 0.21}
commands:
  description: The commands as run.
  returned: always
  type: list
  elements: list
  sample: [[/usr/sbin/criu, --version], [/usr/sbin/criu, check]]
reason:
  description: Stable code of the first reason.
  returned: on failure
  type: str
  sample: vdso_kernel
fix:
  description: What to do about it.
  returned: on failure
  type: str
  sample: Install CRIU 4.1 or newer.
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._criu import Criu
from ansible_collections.gpufleet.warmstart.plugins.module_utils._criu_check import HostCheck
from ansible_collections.gpufleet.warmstart.plugins.module_utils._module import run_module
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError


def run(module: AnsibleModule, runner: Runner) -> dict:
    report = HostCheck(runner, Criu(runner, module.params["criu_path"])).report(module.params["features"])
    certain = [reason for reason in report["reasons"] if reason["certain"]]
    if certain and module.params["required"]:
        raise WarmstartError(certain[0]["code"], certain[0]["detail"], **report)
    return {"changed": False, **report}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "criu_path": {"type": "path"},
            "features": {"type": "list", "elements": "str", "default": []},
            "required": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run_module(module, run, needs_root=False)


if __name__ == "__main__":
    main()
