#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: golden_compatibility
short_description: Tell whether a golden checkpoint can be restored on this host, before any byte moves
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Compares the fingerprint in a golden checkpoint's manifest with this host, fact by fact, and says what to do about each difference.
  - Without a manifest it returns the host's fingerprint and its compatibility class. Hosts of one class can restore each other's golden
    checkpoints, so that one is baked for each class.
  - An incompatible host is no failure of the module; see RV(compatible).
requirements:
  - podman >= 4.0
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
attributes:
  check_mode:
    support: full
    details: Only reads.
  diff_mode:
    support: none
options:
  manifest:
    description: Content of the golden checkpoint's C(manifest.json), for one that is not on the host yet.
    type: dict
  manifest_file:
    description: Path of the golden checkpoint's C(manifest.json) on the managed host.
    type: path
seealso:
  - module: gpufleet.warmstart.podman_checkpoint
  - module: gpufleet.warmstart.podman_restore
"""

EXAMPLES = r"""
- name: Find the host's compatibility class
  gpufleet.warmstart.golden_compatibility:
  register: host
  become: true

- name: Compare a golden checkpoint on the controller with the host
  gpufleet.warmstart.golden_compatibility:
    manifest: "{{ lookup('ansible.builtin.file', store ~ '/llama/1/' ~ host.class ~ '/manifest.json') | from_json }}"
  register: compared
  failed_when: not compared.compatible
  become: true
"""

RETURN = r"""
class:
  description: This host's compatibility class.
  returned: success
  type: str
  sample: h100x1-580.159.04-k6.18-criu4.2.1-0a1b2c3d
host:
  description: This host's fingerprint, as a manifest keeps it under C(host).
  returned: success
  type: dict
  sample: {architecture: amd64, kernel: 6.18.44, criu: 4.2.1, podman: 5.8.6, driver: 580.159.04}
compatible:
  description: Whether no difference is V(fatal).
  returned: when a manifest was given
  type: bool
  sample: false
manifest_class:
  description: The compatibility class of the host that the golden checkpoint was taken on.
  returned: when a manifest was given
  type: str
  sample: h100x1-570.86.15-k6.18-criu4.2.1-4e5f6a7b
differences:
  description: Each fact that was compared.
  returned: when a manifest was given
  type: list
  elements: dict
  contains:
    fact:
      description: Name of the fact.
      type: str
    level:
      description: V(fatal), V(warning) or V(ok).
      type: str
    here:
      description: What it is on this host.
      type: str
    there:
      description: What it was where the golden checkpoint was taken.
      type: str
    reason:
      description: Why the difference matters; empty if it is V(ok).
      type: str
    fix:
      description: What to do about it; empty if it is V(ok).
      type: str
  sample:
    - fact: driver
      level: fatal
      here: 580.159.04
      there: 570.86.15
      reason: "driver 580.159.04 here, 570.86.15 there: the driver's libraries are mapped into the processes, by their version."
      fix: Rebake for class h100x1-580.159.04-k6.18-criu4.2.1-0a1b2c3d.
commands:
  description: The commands as run.
  returned: always
  type: list
  elements: list
  sample: [[podman, info, --format, json]]
reason:
  description: Stable code of why it failed.
  returned: on failure
  type: str
  sample: manifest_schema
fix:
  description: What to do about it.
  returned: on failure
  type: str
  sample: Use one version of the collection on every controller; an older golden checkpoint must be baked again.
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _fingerprint, _manifest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._criu import Criu
from ansible_collections.gpufleet.warmstart.plugins.module_utils._module import run_module
from ansible_collections.gpufleet.warmstart.plugins.module_utils._podman import Podman
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError


def given_manifest(params: dict) -> dict | None:
    if params["manifest"] is not None:
        return _manifest.checked(params["manifest"], "The manifest")
    if params["manifest_file"] is None:
        return None
    try:
        return _manifest.parse(Path(params["manifest_file"]).read_bytes(), params["manifest_file"])
    except OSError as error:
        raise WarmstartError("archive_missing", f"{params['manifest_file']}: {error.strerror}.") from None


def run(module: AnsibleModule, runner: Runner) -> dict:
    manifest = given_manifest(module.params)
    podman, criu = Podman(runner), Criu(runner)
    here = _fingerprint.host_facts(podman, criu)
    result = {"changed": False, "class": _fingerprint.class_of(here), "host": here}
    if manifest is None:
        return result
    differences = _fingerprint.Comparison(podman, criu, manifest, here).differences()
    compared = {"compatible": _fingerprint.compatible(differences), "manifest_class": manifest["class"], "differences": differences}
    return {**result, **compared}


def main() -> None:
    module = AnsibleModule(
        argument_spec={"manifest": {"type": "dict"}, "manifest_file": {"type": "path"}},
        mutually_exclusive=[("manifest", "manifest_file")],
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
