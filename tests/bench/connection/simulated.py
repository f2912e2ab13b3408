# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ssh to no host: the connection plugin of ansible-core, but where it would start ssh, the answer of a capture, and the bytes counted.

So all that the controller does stays real, up to the command line of ssh. A module answers what the same module answered on a lab host
(capture_ssh.py keeps that); an unknown module, or a command for a shell, fails with its name. Reads the folder CAPTURES, appends a line for
each call to the file SIMULATED_LOG. Then: scale.py.
"""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.plugins.connection import ssh

DOCUMENTATION = ssh.DOCUMENTATION  # ansible-core reads the options from here

CAPTURES = Path(os.environ.get("CAPTURES") or Path(__file__).parents[1] / "captures")
# The end of a payload, where AnsiballZ calls its main function with one argument on each line.
MODULE = re.compile(rb"^ansible_module='(?:ansible\.legacy\.|ansible\.builtin\.)?(.+)',$", re.MULTILINE)
CHECK = re.compile(rb'^params=.*"_ansible_check_mode": true', re.MULTILINE)


def asked_for(sent: bytes | None) -> str:
    """The module that a payload runs, with .check in check mode; empty if it is no module's."""
    call = (sent or b"").rfind(b"_ansiballz_main(\n")
    found = MODULE.search(sent, call) if call >= 0 else None
    if not found:
        return ""
    return found[1].decode() + (".check" if CHECK.search(sent, call) else "")


def captured(key: str) -> bytes:
    for name in (key, key.removesuffix(".check")):
        path = CAPTURES / f"{name}.json"
        if path.exists():
            return path.read_bytes()
    raise AnsibleError(f"There is no capture of {key} in {CAPTURES.name}; capture_ssh.py says how to make one.")


class Connection(ssh.Connection):
    transport = "simulated"

    def _bare_run(self, cmd, in_data, sudoable=True, checkrc=True):
        key = asked_for(in_data)
        if not key:
            raise AnsibleError(f"A simulated host has no shell, only modules by pipelining: {cmd[-1]!r}")
        answer = captured(key)
        self._note(key, sum(map(len, cmd)) + len(in_data), len(answer))
        return 0, answer, b""

    def put_file(self, in_path, out_path):
        self._note("put_file", os.path.getsize(in_path), 0)
        return 0, b"", b""

    def fetch_file(self, in_path, out_path):
        raise AnsibleError(f"A simulated host has no files: {in_path}")

    def _note(self, what: str, sent: int, received: int) -> None:
        """In one write, so that the lines of two workers do not mix."""
        if log := os.environ.get("SIMULATED_LOG"):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            with open(log, "ab", buffering=0) as file:
                file.write(f"{self.get_option('host')} {what} {sent} {received} {peak}\n".encode())
