# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the options by which podman_checkpoint and podman_restore choose and configure CRIU."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  criu_path:
    description: The criu program to use instead of the one in C(PATH).
    type: path
  criu_config:
    description:
      - CRIU options for this one container, named as in CRIU's configuration files, for example C(ghost-limit), C(network-lock) or
        C(action-script). V(true) or an empty value sets an option that takes no value.
      - They are written to a file of their own for the time of the command, and override C(/etc/criu/default.conf).
      - An option that the container's runtime would override is refused.
    type: dict
"""
