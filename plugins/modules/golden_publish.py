#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: golden_publish
short_description: Publish a golden checkpoint to a registry or file server, in shards
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Sends the archive of a golden checkpoint from the host that baked it, in chunks of 64 MiB, each compressed with zstd. In a registry
    they are the layers of an OCI artifact.
  - The same bytes make the same shard, so what is there already, of this or another version, is not sent again. That is also how a run
    that was cut off goes on.
  - The list of shards goes last, so that a tag is there only when all of its shards are.
  - The manifest is not published. It comes from the controller, and everything fetched is compared with it.
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
  - gpufleet.warmstart.transport
attributes:
  check_mode:
    support: full
    details: Asks the registry whether this version is there.
  diff_mode:
    support: none
options:
  folder:
    description: The golden checkpoint on the managed host, with C(manifest.json) and the archive that it describes.
    type: path
    required: true
  via:
    description: How to send it. With V(http), files are sent with PUT after HEAD, or copied where O(location) is a folder.
    type: str
    choices: [registry, http]
    required: true
  location:
    required: true
  tag:
    required: true
seealso:
  - module: gpufleet.warmstart.golden_fetch
"""

EXAMPLES = r"""
- name: Publish to a registry
  gpufleet.warmstart.golden_publish:
    folder: /var/lib/gpufleet-warmstart/golden/llama/3
    via: registry
    location: registry.example.com/golden/llama
    tag: 3-h100x1
    auth_file: /etc/gpufleet-warmstart/auth.json
    ca_file: /etc/ssl/certs/example-ca.pem
  become: true

- name: Lay the same files into a folder that a web server serves
  gpufleet.warmstart.golden_publish:
    folder: /var/lib/gpufleet-warmstart/golden/llama/3
    via: http
    location: file:///srv/www/golden/llama
    tag: 3-h100x1
  become: true
"""

RETURN = r"""
bytes_sent:
  description: Bytes of the shards that were sent; without those that were there already.
  returned: success, and on failure after the first shard
  type: int
  sample: 409364480
bytes_compressed:
  description: Bytes of all shards.
  returned: when it was published now
  type: int
  sample: 4093644800
shards:
  description: How many different shards there are (all), and how many were sent.
  returned: when it was published now
  type: dict
  sample: {all: 150, sent: 15}
timings:
  description: Seconds; total.
  returned: success
  type: dict
  sample: {total: 9.3}
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
  sample: registry_unreachable
fix:
  description: What to do about it.
  returned: on failure
  type: str
  sample: Check its address, that it runs, and the network; then run again, which goes on where this run stopped.
"""

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._distribute import MANIFEST, publish, published
from ansible_collections.gpufleet.warmstart.plugins.module_utils._module import run_module
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError
from ansible_collections.gpufleet.warmstart.plugins.module_utils._shards import Layout
from ansible_collections.gpufleet.warmstart.plugins.module_utils._transport import ARGUMENTS, connect


def run(module: AnsibleModule, runner: Runner) -> dict:
    folder = Path(module.params["folder"])
    try:
        layout = Layout(json.loads((folder / MANIFEST).read_bytes()), str(folder / MANIFEST))
    except FileNotFoundError:
        raise WarmstartError("archive_missing", f"There is no {folder / MANIFEST}.") from None
    except ValueError as error:
        raise WarmstartError("archive_corrupt", f"{folder / MANIFEST} is not JSON: {error}") from None
    with connect(runner, module.params["via"], module.params) as transport:
        if published(transport, layout):
            return {"changed": False, "bytes_sent": 0, "timings": {}}
        if module.check_mode:
            return {"changed": True, "bytes_sent": 0, "timings": {}}
        return {"changed": True, **publish(folder, layout, transport, module.params["parallel"])}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "folder": {"type": "path", "required": True},
            "via": {"type": "str", "choices": ["registry", "http"], "required": True},
            "location": {"type": "str", "required": True},
            "tag": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
