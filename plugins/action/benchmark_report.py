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
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils import _condition, _formats, _report

COLLECTION = Path(__file__).parents[2]


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
                "checkpoints": {"type": "list", "elements": "dict", "default": []},
                "fail_if": {"type": "list", "elements": "str", "default": []},
            }
        )
        directory, rows, files = Path(arguments["directory"]).absolute(), arguments["rows"], []
        try:
            _report.check_rows(rows)
            now = datetime.datetime.now(datetime.timezone.utc)
            report = _report.build(rows, arguments["hosts"], collection(), now, arguments["checkpoints"])
            _condition.check(arguments["fail_if"], list(report["summary"]))
            if not self._task.check_mode:
                files, left_out = _report.write(directory, report)
                if left_out:
                    Display().warning(left_out)
                Display().display(f"\n{_formats.as_table(report)}\n\nThe report is in {directory}.\n")
            met = _condition.met(arguments["fail_if"], report["summary"])
        except (OSError, ValueError) as error:
            raise AnsibleActionFail(f"No report in {directory}: {error}") from error
        failure = {"failed": True, "msg": " ".join(met)} if met else {}
        return {**result, "changed": True, "files": [str(file) for file in files], "summary": report["summary"], **failure}
