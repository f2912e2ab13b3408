# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action benchmark_plan: checks what a benchmark is to do and lays it out, with what an interrupted one has done; no host is connected to.

Its documentation is in plugins/modules/benchmark_plan.py, the plan in plugins/plugin_utils/_plan.py.
"""

from __future__ import annotations

from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils import _condition, _plan
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._journal import Journal

ARGUMENTS = {
    "methods": {"type": "list", "elements": "raw", "required": True},
    "iterations": {"type": "int", "required": True},
    "warmup": {"type": "int", "default": 0},
    "server": {"type": "dict", "required": True},
    "store": {"type": "str", "required": True},
    "directory": {"type": "path", "required": True},
    "fail_if": {"type": "list", "elements": "str", "default": []},
    "resume": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _checked, arguments = self.validate_argument_spec(ARGUMENTS)
        host = task_vars["inventory_hostname"]
        try:
            for name, least in (("iterations", 1), ("warmup", 0)):
                if arguments[name] < least:
                    raise ValueError(f"benchmark_{name} is {arguments[name]}: it must be {least} or more.")
            complete = _plan.methods(arguments["methods"])
            _condition.check(arguments["fail_if"], [entry["name"] for entry in complete])
            placed, checkpoints = _plan.with_checkpoints(complete, arguments["server"]["name"], arguments["store"])
            rows, saved, taken = _plan.rows(complete, host, arguments["iterations"], arguments["warmup"]), [], []
            if not self._task.check_mode:
                plan = _plan.digest(complete, arguments["server"], arguments["store"])
                saved, taken = Journal(Path(arguments["directory"]), host).begin(plan, arguments["resume"])
        except (OSError, ValueError) as error:
            raise AnsibleActionFail(str(error)) from error
        done = {(row["method"], row["iteration"]): row for row in saved}
        rows = [done.get((row["method"], row["iteration"]), row) for row in rows]
        needed = {row["method"] for row in rows if row.get("reason") == "not_run"}
        ids = {entry["checkpoint_id"] for entry in placed if entry["name"] in needed}
        return {
            **result,
            "changed": False,
            "methods": {entry["name"]: entry for entry in placed},
            "checkpoints": [checkpoint for checkpoint in checkpoints if checkpoint["id"] in ids],
            "containers": sorted({entry["container"] for entry in placed}),
            "folders": sorted({entry["folder"] for entry in placed}),
            "rows": rows,
            "taken": taken,
        }
