# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a playbook's time goes: for each task wall seconds, CPU seconds of Ansible's main process and of its workers, and results.

Works in the main process, by strategy linear, where one task ends before the next one starts. Writes JSON to the file TASK_TIMES, with the
peak memory of the main process. Then: scale.py.
"""

from __future__ import annotations

DOCUMENTATION = """
name: task_times
type: aggregate
short_description: Time and CPU of each task
description: For tests/bench/scale.py only.
author: The gpufleet developers (@gpufleet)
version_added: "0.1.0"
"""

import json
import os
import resource
import time
from pathlib import Path

from ansible.plugins.callback import CallbackBase


def spent() -> list[float]:
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return [time.monotonic(), time.process_time(), workers.ru_utime + workers.ru_stime]


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "task_times"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self.tasks: dict[str, dict] = {}
        self.current, self.since = "(start)", spent()

    def lap(self, name: str, action: str = "") -> None:
        now = spent()
        row = self.tasks.setdefault(self.current, {"action": "", "wall": 0.0, "main": 0.0, "workers": 0.0, "results": 0})
        for key, after, before in zip(("wall", "main", "workers"), now, self.since):
            row[key] += after - before
        self.current, self.since = name, now
        self.tasks.setdefault(name, {"action": action, "wall": 0.0, "main": 0.0, "workers": 0.0, "results": 0})

    def v2_playbook_on_task_start(self, task, is_conditional):
        self.lap(task.get_name(), task.action)

    v2_playbook_on_handler_task_start = v2_playbook_on_task_start

    def count(self, result, **_more):
        self.tasks[self.current]["results"] += 1

    v2_runner_on_ok = v2_runner_on_failed = v2_runner_on_unreachable = v2_runner_on_skipped = count

    def v2_playbook_on_stats(self, stats):
        self.lap("(end)")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        Path(os.environ["TASK_TIMES"]).write_text(json.dumps({"main_peak_kib": peak, "tasks": self.tasks}))
