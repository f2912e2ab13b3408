# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that move golden checkpoints: where to, and what opens it. module_utils/_transport.py has their types."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
requirements:
  - zstd (the program)
  - oras >= 1.2 (the program), for O(via=registry)
  - httpx (the Python library), for O(via=http)
options:
  location:
    description:
      - With O(via=registry), the repository as C(HOST[:PORT]/REPOSITORY), with C(http://) before it if the registry has no TLS.
      - With O(via=http), the URL of a folder, C(http://), C(https://), or C(file:///) for a mounted share. Versions are C(TAG.json) in it,
        shards C(sha256/DIGEST).
    type: str
  tag:
    description: Tells versions and compatibility classes apart, such as V(3-cpu-k6.18).
    type: str
  username:
    description: User at the registry or file server. It is written to a file under C(/run) while the module runs, never to a command line.
    type: str
  password:
    description: That user's password.
    type: str
  auth_file:
    description:
      - File on the managed host with credentials, in place of O(username); for a registry in the form of podman and docker
        (C(auth.json)), for HTTP a netrc file.
    type: path
  ca_file:
    description: File on the managed host with the certificate of the CA that signed the registry's or file server's.
    type: path
  timeout:
    description: Seconds that one shard (64 MiB before compression) may take with O(via=registry).
    type: float
    default: 300.0
  parallel:
    description: Shards on their way at the same time.
    type: int
    default: 4
"""
