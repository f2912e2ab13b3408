#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: podman_checkpoint_info
short_description: Say what a checkpoint holds without restoring it
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Reads a checkpoint archive, or the checkpoint in place of a container, and says what it would restore.
  - Nothing is unpacked to disk, and values of the environment are never returned.
requirements:
  - zstd (the program), for archives compressed with it
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
attributes:
  check_mode:
    support: full
    details: Only reads.
  diff_mode:
    support: none
options:
  name:
    description: Name of a container with a checkpoint in place. Exactly one of O(name) and O(archive) is needed.
    type: str
  archive:
    description: Path of an archive on the managed host.
    type: path
seealso:
  - module: gpufleet.warmstart.podman_checkpoint
"""

EXAMPLES = r"""
- name: Read an archive
  gpufleet.warmstart.podman_checkpoint_info:
    archive: /var/lib/gpufleet-warmstart/golden/llama/1/checkpoint.tar
  become: true

- name: Read the checkpoint in place
  gpufleet.warmstart.podman_checkpoint_info:
    name: llama
  become: true
"""

RETURN = r"""
checkpoint:
  description:
    - What a restore would bring up - id, name, created (of the container), image, image_id, runtime, command, environment_names, mounts,
      ports, network, findings.
    - C(findings) is what a restore refuses unless it is expected, a list of C(code) (V(hook), V(criu_config), V(mount), V(privileged) or
      V(path)) and C(item). The manifest of a golden checkpoint records its own.
  returned: success
  type: dict
  sample:
    id: 9566399db811e925abd71195fd2b5ce4e5dd517f5c5daad05eebccf201e9da42
    name: llama
    image: localhost/llama-server:1
    environment_names: [PATH, container]
checkpointed:
  description: When the checkpoint was taken.
  returned: success
  type: str
  sample: "2026-11-21T21:03:12.448475+00:00"
compression:
  description: Compression of the archive, V(none) in place.
  returned: success
  type: str
  sample: zstd
size:
  description: Bytes of the archive, or of all images in place.
  returned: success
  type: int
  sample: 92611584
parts:
  description: Bytes per part, uncompressed (pages, gpu_pages, criu, shared_memory, root_diff, volumes, metadata).
  returned: success
  type: dict
  sample: {pages: 90112000, criu: 18350, root_diff: 1536}
versions:
  description: Of podman, runtime, CRIU and kernel that took the checkpoint; empty where no manifest says so.
  returned: success
  type: dict
  sample: {podman: 5.8.6, runtime: crun, runtime_version: "1.28", criu: 4.2.1, kernel: 6.18.44}
manifest:
  description: The manifest beside the archive.
  returned: when there is one
  type: dict
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
  sample: archive_corrupt
fix:
  description: What to do about it.
  returned: on failure
  type: str
  sample: Copy it again and compare its digests with the manifest, or take a new golden checkpoint.
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.warmstart.plugins.module_utils._archive import describe_archive, describe_in_place
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._module import run_module
from ansible_collections.gpufleet.warmstart.plugins.module_utils._podman import Podman


def run(module: AnsibleModule, runner: Runner) -> dict:
    if module.params["archive"]:
        return {"changed": False, **describe_archive(Path(module.params["archive"]))}
    return {"changed": False, **describe_in_place(Podman(runner).get(module.params["name"]))}


def main() -> None:
    module = AnsibleModule(
        argument_spec={"name": {"type": "str"}, "archive": {"type": "path"}},
        mutually_exclusive=[("name", "archive")],
        required_one_of=[("name", "archive")],
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
