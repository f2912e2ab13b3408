# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action benchmark_compare: reads two reports on the controller and says which methods got better or worse; no host is connected to.

Its documentation is in plugins/modules/benchmark_compare.py, the comparison in plugins/plugin_utils/_compare.py.
"""

from __future__ import annotations

from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils import _compare
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._formats import text_table


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _checked, arguments = self.validate_argument_spec(
            {
                "before": {"type": "path", "required": True},
                "after": {"type": "path", "required": True},
                "fail_if_worse": {"type": "bool", "default": False},
            }
        )
        try:
            verdicts = _compare.compare(*(_compare.read(Path(arguments[name])) for name in ("before", "after")))
        except (OSError, ValueError) as error:
            raise AnsibleActionFail(f"Nothing compared: {error}") from error
        if not verdicts:
            raise AnsibleActionFail("Nothing compared: the two reports have no method in common.")
        Display().display(f"\n{text_table(_compare.HEADINGS, _compare.cells(verdicts))}\n")
        worse = [method for method, found in verdicts.items() if found["verdict"] == "worse"]
        failed = bool(worse) and arguments["fail_if_worse"]
        return {
            **result,
            "changed": False,
            "methods": verdicts,
            "failed": failed,
            **({"msg": f"Worse: {', '.join(worse)}."} if failed else {}),
        }
