# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action benchmark_record: keeps a row of a benchmark on the controller as it comes, and says how far the host is; no host is connected to.

Its documentation is in plugins/modules/benchmark_record.py, the file in plugins/plugin_utils/_journal.py.
"""

from __future__ import annotations

from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._formats import duration
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._journal import Journal


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _checked, arguments = self.validate_argument_spec(
            {
                "directory": {"type": "path", "required": True},
                "row": {"type": "dict"},
                "checkpoint": {"type": "dict"},
                "planned": {"type": "int", "default": 0},
            },
            required_one_of=[("row", "checkpoint")],
        )
        row, checkpoint = arguments["row"], arguments["checkpoint"]
        if self._task.check_mode:
            return {**result, "changed": True}
        journal = Journal(Path(arguments["directory"]), task_vars["inventory_hostname"])
        try:
            journal.add(**({"row": row} if row else {"checkpoint": checkpoint}))
            if row:
                done, left = journal.progress(arguments["planned"])
                # In colour on a terminal, a plain line elsewhere.
                Display().display(line(row, done, arguments["planned"], left), color="green" if row["ok"] else "red")
        except OSError as error:
            raise AnsibleActionFail(f"{journal.path}: {error}") from error
        return {**result, "changed": True}


def line(row: dict, done: int, planned: int, left: float | None) -> str:
    """Host, method, iteration, what came of it, and how much is left."""
    which = f"iteration {row['iteration']}" if row["iteration"] > 0 else "warm-up"
    outcome = duration(row["seconds"].get("total")) if row["ok"] else f"failed: {row.get('reason')}"
    return f"{row['host']}: {row['method']} {which}: {outcome}, {done} of {planned} done{'' if not left else f', {span(left)} left'}"


def span(seconds: float) -> str:
    """A time to wait, roughly: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
