# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module's main() does around its work: root where it is needed, commands returned, reasons on failure."""

from __future__ import annotations

import os
from collections.abc import Callable

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError


def run_module(module: AnsibleModule, work: Callable[[AnsibleModule, Runner], dict], needs_root: bool = True) -> None:
    """Run `work(module, runner)` and exit with its result and the commands as run, or fail with msg, reason and fix."""
    runner = Runner()
    # An environment variable of 0 or 1 is no secret, and to hide it would hide every number that has the digit.
    module.no_log_values = {value for value in module.no_log_values if len(value) > 3 and not value.isdigit()}
    try:
        if needs_root and os.geteuid() != 0:
            raise WarmstartError("not_root", f"This ran as user {os.geteuid()}.")
        result = work(module, runner)
    except WarmstartError as error:
        module.fail_json(commands=runner.commands, **error.as_result())
    module.exit_json(commands=runner.commands, **result)
