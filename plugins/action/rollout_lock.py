# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action rollout_lock: tells the module of that name which ansible-playbook process asks, and which holder has ended on this controller.

Touches nothing here; the lock is on the host (plugins/module_utils/_lock.py).
"""

from __future__ import annotations

import getpass
import os
import socket
from pathlib import Path

from ansible.plugins.action import ActionBase


def process(pid: int) -> dict:
    """The process `pid` of this machine, so that another one with the same number is told apart."""
    try:
        # after the name, which may hold anything: state is field 3, starttime field 22 (proc_pid_stat(5))
        began = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        began = ""
    return {"controller": socket.gethostname(), "user": getpass.getuser(), "pid": pid, "began": began}


def alive(holder: dict) -> bool:
    """Whether the holder may still be at work: it is on another controller, or its process is there."""
    if holder.get("controller") != socket.gethostname():
        return True
    try:
        os.kill(holder["pid"], 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return process(holder["pid"])["began"] == holder.get("began")


class ActionModule(ActionBase):
    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        # a task is run by a worker, which is a child of ansible-playbook
        arguments = {**self._task.args, "holder": process(os.getppid())}
        result = self._execute_module(module_args=arguments, task_vars=task_vars)
        if result.get("reason") == "locked" and not alive(result["holder"]):
            result = self._execute_module(module_args={**arguments, "gone": result["holder"]}, task_vars=task_vars)
        return result
