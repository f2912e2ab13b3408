#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: golden_versions
short_description: Say which version of a golden checkpoint is current on a host, and remove old ones
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Points the link C(current) beside the versions to O(version), and the link C(previous) to what was current before.
  - Keeps the current and the previous version and, up to O(keep) in all, the newest others. The rest is removed whole, with what an
    interrupted copy or checkpoint left, since all of it holds the server's memory.
  - One run at a time for each golden checkpoint; an incomplete version is taken for an interrupted one.
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
options:
  folder:
    description: The folder of the golden checkpoint, with its versions in it.
    type: path
    required: true
  version:
    description: The version to make current, which must be there. Without it the links stay.
    type: str
  keep:
    description: How many versions to keep.
    type: int
    default: 2
seealso:
  - module: gpufleet.warmstart.podman_restore
"""

EXAMPLES = r"""
- name: Make version 3 the current one, and keep the one before it
  gpufleet.warmstart.golden_versions:
    folder: /var/lib/gpufleet-warmstart/golden/llama
    version: "3"
  become: true
"""

RETURN = r"""
current:
  description: The current version; empty if there is none.
  returned: success
  type: str
  sample: "3"
previous:
  description: The version that was current before; empty if there is none.
  returned: success
  type: str
  sample: "2"
versions:
  description: All versions, the newest first.
  returned: success
  type: list
  elements: str
  sample: ["3", "2"]
removed:
  description: Versions and files that were removed.
  returned: success
  type: list
  elements: str
  sample: ["1"]
commands:
  description: The commands as run.
  returned: always
  type: list
  elements: list
  sample: []
reason:
  description: Stable code of why it failed.
  returned: on failure
  type: str
  sample: archive_missing
fix:
  description: What to do about it.
  returned: on failure
  type: str
  sample: Check the path, or take the golden checkpoint first.
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _versions
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._module import run_module


def run(module: AnsibleModule, runner: Runner) -> dict:
    folder = Path(module.params["folder"])
    before = _versions.state_of(folder)
    planned = _versions.plan(folder, module.params["version"], module.params["keep"])
    changed = not _versions.is_done(folder, planned)
    if changed and not module.check_mode:
        _versions.apply(folder, planned)
    after = {key: planned[key] for key in before}
    return {"changed": changed, **planned, "diff": {"before": before, "after": after}}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "version": {"type": "str"},
            "keep": {"type": "int", "default": 2},
        },
        supports_check_mode=True,
    )
    run_module(module, run, needs_root=False)


if __name__ == "__main__":
    main()
