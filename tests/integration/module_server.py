# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls modules through Ansible without starting Ansible each time, which costs a second and a half: labtool.py starts this.

Usage: module_server.py INVENTORY. Reads one JSON object a line, {"module", "args", "host", "check", "diff"}, and answers each with the
module's whole result on one line. Connection, become and module transfer are Ansible's own.
"""

from __future__ import annotations

import json
import os
import sys
from typing import ClassVar

from ansible import context
from ansible.executor.task_queue_manager import TaskQueueManager
from ansible.inventory.manager import InventoryManager
from ansible.module_utils.common.collections import ImmutableDict
from ansible.parsing.ajson import AnsibleJSONEncoder
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play import Play
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import init_plugin_loader
from ansible.vars.manager import VariableManager


class Keep(CallbackBase):
    """Keeps the last result."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "keep"
    last: ClassVar[dict] = {}

    def keep(self, result, **more) -> None:
        values = getattr(result, "result", None) or result._result  # .result from ansible-core 2.19 on
        Keep.last = {**values, **more}

    def v2_runner_on_ok(self, result, **_more):
        self.keep(result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self.keep(result, failed=True)

    def v2_runner_on_unreachable(self, result):
        self.keep(result, unreachable=True)


class Server:
    def __init__(self, inventory: str):
        init_plugin_loader()
        self.loader = DataLoader()
        self.inventory = InventoryManager(loader=self.loader, sources=[inventory])
        self.variables = VariableManager(loader=self.loader, inventory=self.inventory)

    def call(self, request: dict) -> dict:
        context.CLIARGS = ImmutableDict(
            connection="ssh", forks=1, become=None, become_method=None, become_user=None, verbosity=0,
            check=request["check"], diff=request["diff"],
        )  # fmt: skip
        task = {"action": {"module": request["module"], "args": request["args"]}}
        source = {"name": "test", "hosts": request["host"], "gather_facts": False, "tasks": [task]}
        play = Play().load(source, variable_manager=self.variables, loader=self.loader)
        keep, Keep.last = Keep(), {}
        queue = TaskQueueManager(self.inventory, self.variables, self.loader, passwords={})
        queue.load_callbacks()
        if hasattr(keep, "_init_callback_methods"):  # ansible-core 2.19 and newer
            keep._init_callback_methods()
        queue._callback_plugins.append(keep)
        try:
            queue.run(play)
        finally:
            queue.cleanup()
        return Keep.last


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what Ansible displays goes elsewhere
    server = Server(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(server.call(json.loads(line)), cls=AnsibleJSONEncoder), file=answers)


if __name__ == "__main__":
    main()
