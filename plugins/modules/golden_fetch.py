#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: golden_fetch
short_description: Bring a golden checkpoint to a host from a registry or file server
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Puts the archive of a golden checkpoint together, compares every chunk with the digests in its manifest, and moves archive, manifest
    and signature into place at once. So a manifest in O(folder) means that the archive beside it is whole.
  - Chunks that another version on the host has are copied from there. A run that was cut off goes on with the chunks that it had.
  - On a full disk it gives back what it took. The archive's space is reserved before the first byte is fetched.
  - A broken archive in O(folder) is mended; its good chunks are kept.
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
  - gpufleet.warmstart.transport
attributes:
  check_mode:
    support: full
    details: Looks at the host only.
  diff_mode:
    support: none
options:
  folder:
    description: Where to put it, as C(.../NAME/VERSION). Folders that are missing are made with mode 0700, files have 0600.
    type: path
    required: true
  manifest:
    description:
      - The content of C(manifest.json), in Base64.
      - As plain text Ansible might take it for a dictionary and change its bytes, and with them its signature.
    type: str
    required: true
  signature:
    description: The content of C(manifest.json.sig), in Base64, to be put beside the manifest. Whoever restores verifies it.
    type: str
  via:
    description:
      - How to fetch it. With V(copy) nothing is fetched; the archive was copied into RV(partial) before.
      - V(http) asks for what is missing of a shard (a ranged GET), V(registry) for whole shards.
    type: str
    choices: [registry, http, copy]
    required: true
seealso:
  - module: gpufleet.warmstart.golden_publish
"""

EXAMPLES = r"""
- name: Fetch from a registry
  gpufleet.warmstart.golden_fetch:
    folder: /var/lib/gpufleet-warmstart/golden/llama/3
    manifest: "{{ lookup('ansible.builtin.file', 'golden/llama/3/manifest.json', rstrip=false) | b64encode }}"
    via: registry
    location: registry.example.com/golden/llama
    tag: 3-h100x1
    auth_file: /etc/gpufleet-warmstart/auth.json
  become: true

- name: Fetch from a web server with a user
  gpufleet.warmstart.golden_fetch:
    folder: /var/lib/gpufleet-warmstart/golden/llama/3
    manifest: "{{ lookup('ansible.builtin.file', 'golden/llama/3/manifest.json', rstrip=false) | b64encode }}"
    via: http
    location: https://files.example.com/golden/llama
    tag: 3-h100x1
    username: fleet
    password: "{{ vault_files_password }}"
  become: true
"""

RETURN = r"""
bytes_received:
  description: Bytes of shards, compressed, that came over the network.
  returned: success, and on failure of the transfer
  type: int
  sample: 409364480
chunks:
  description: Chunks that there are (all), were left by an earlier run (resumed), copied from other versions (reused), and fetched.
  returned: when it was fetched now, and on failure of the transfer
  type: dict
  sample: {all: 150, resumed: 0, reused: 135, fetched: 15}
complete:
  description: Whether the archive was in place before, and whole.
  returned: success
  type: bool
  sample: false
partial:
  description: The folder beside O(folder) in which it is put together; gone afterwards, unless the run fails.
  returned: success
  type: str
  sample: /var/lib/gpufleet-warmstart/golden/llama/.3.partial
timings:
  description: Seconds; resumed, reused, fetched, total.
  returned: success
  type: dict
  sample: {resumed: 0.0, reused: 1.9, fetched: 3.2, total: 5.4}
commands:
  description: The commands as run, of a kind only the first.
  returned: always
  type: list
  elements: list
  sample: [[oras, manifest, fetch, "registry.example.com/golden/llama:3-h100x1"]]
reason:
  description: Stable code of why it failed.
  returned: on failure
  type: str
  sample: digest_mismatch
fix:
  description: What to do about it.
  returned: on failure
  type: str
  sample: Nothing of it was put in place. Check the registry's storage; delete the damaged blob there and publish again.
"""

import base64
import binascii
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._distribute import Wanted, fetch, in_place, write_manifest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._module import run_module
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError
from ansible_collections.gpufleet.warmstart.plugins.module_utils._transport import ARGUMENTS, connect


def decoded(name: str, text: str | None) -> bytes | None:
    try:
        content = None if text is None else base64.b64decode(text, validate=True)
        if content is not None:
            content.decode()
    except (binascii.Error, ValueError):
        raise WarmstartError("bad_input", f"{name} is not text in Base64.") from None
    return content


def run(module: AnsibleModule, runner: Runner) -> dict:
    options = module.params
    wanted = Wanted(Path(options["folder"]), decoded("manifest", options["manifest"]), decoded("signature", options["signature"]))
    there = in_place(wanted)
    nothing = {"bytes_received": 0, "complete": there != "", "partial": str(wanted.partial), "timings": {}}
    if there == "all" or module.check_mode:
        return {"changed": there != "all", **nothing}
    if there == "archive":
        write_manifest(wanted, wanted.folder)
        return {"changed": True, **nothing}
    if options["via"] == "copy":
        return {"changed": True, **nothing, **fetch(wanted, None, options["parallel"])}
    with connect(runner, options["via"], options) as transport:
        return {"changed": True, **nothing, **fetch(wanted, transport, options["parallel"])}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "folder": {"type": "path", "required": True},
            "manifest": {"type": "str", "required": True},
            "signature": {"type": "str"},
            "via": {"type": "str", "choices": ["registry", "http", "copy"], "required": True},
        },
        required_if=[("via", "registry", ["location", "tag"]), ("via", "http", ["location", "tag"])],
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
