# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of a declared server: podman_server's option server, podman_restore's option fallback."""

from __future__ import annotations

from textwrap import indent

SUBOPTIONS = indent(
    r"""name:
  description: Accepted so that one variable can declare a server whole; O(name) names the container.
  type: str
engine:
  description:
    - The inference server in the container. Its profile adds the environment, arguments and seccomp profile that a checkpoint
      needs, where the declaration does not say otherwise, and lets it sleep before a checkpoint.
  type: str
  choices: [vllm, sglang, llama_cpp, openai]
  default: openai
image:
  description: The container's image.
  type: str
  required: true
command:
  description: Command and arguments; the image's own where empty.
  type: list
  elements: str
  default: []
env:
  description: Environment variables. Their values never stand in a command line.
  type: dict
  default: {}
volumes:
  description: Mounts, as C(podman run --volume) takes them.
  type: list
  elements: str
  default: []
publish:
  description: Published ports, as C(podman run --publish) takes them.
  type: list
  elements: str
  default: []
devices:
  description: Devices, as C(podman run --device) takes them, CDI names such as V(nvidia.com/gpu=0) included.
  type: list
  elements: str
  default: []
network:
  description: Network, as C(podman run --network) takes it.
  type: str
args:
  description: Further options of C(podman run), one argument each.
  type: list
  elements: str
  default: []
""",
    " " * 6,
)


class ModuleDocFragment:
    DOCUMENTATION: str = (
        r"""
options:
  server:
    description: The server, required for O(state=started).
    type: dict
    suboptions:
"""
        + SUBOPTIONS
    )

    FALLBACK: str = (
        r"""
options:
  fallback:
    description: The server to cold start with C(podman run), only if the restore fails.
    type: dict
    suboptions:
"""
        + SUBOPTIONS
    )
