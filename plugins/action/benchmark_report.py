# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action benchmark_report: writes the benchmark's report on the controller and prints its summary; no host is connected to.

Its documentation is in plugins/modules/benchmark_report.py, the report itself in plugins/plugin_utils/_report.py.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils import _report

COLLECTION = Path(__file__).parents[2]
FILES = ("report.json", "report.csv", "report.md")


def collection() -> str:
    """The collection's name and version: an installed one has MANIFEST.json, a checkout galaxy.yml."""
    manifest = COLLECTION / "MANIFEST.json"
    if manifest.is_file():
        about = json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]
    else:
        about = yaml.safe_load((COLLECTION / "galaxy.yml").read_text(encoding="utf-8"))
    return f"{about['namespace']}.{about['name']} {about['version']}"


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _checked, arguments = self.validate_argument_spec(
            {
                "directory": {"type": "path", "required": True},
                "rows": {"type": "list", "elements": "dict", "required": True},
                "hosts": {"type": "dict", "default": {}},
            }
        )
        directory, rows = Path(arguments["directory"]).absolute(), arguments["rows"]
        try:
            _report.check_rows(rows)
            report = _report.build(rows, arguments["hosts"], collection(), datetime.datetime.now(datetime.timezone.utc))
            if not self._task.check_mode:
                _report.write(directory, report, rows)
                Display().display(f"\n{_report.as_table(report)}\n\nThe report is in {directory}.\n")
        except (OSError, ValueError) as error:
            raise AnsibleActionFail(f"No report in {directory}: {error}") from error
        return {**result, "changed": True, "files": [str(directory / name) for name in FILES], "summary": report["summary"]}
