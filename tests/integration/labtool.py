# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab as the integration tests see it: makes one, calls modules and playbooks on its hosts. conftest.py has the fixture.

Runs ansible's commands of the venv that pytest runs in, with the collection of this checkout; touches what role lab touches.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLLECTIONS = ROOT / ".collections"
BIN = Path(sys.executable).parent


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_NOCOLOR": "1", **more}


def run(*command: object, timeout: float = 600, **more: str) -> subprocess.CompletedProcess[str]:
    """One of ansible's commands, with the collection of this checkout; stdout only is meant to be parsed."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def came_by(output: str, host: str) -> str:
    """How the rollout's summary says the host came to serve."""
    return re.findall(rf"\"{host} +(\w+) ", output)[-1]


def run_lab(state: str, name: str, folder: Path, *options: str, **variables: object) -> subprocess.CompletedProcess[str]:
    """Playbook lab.yml with the small model."""
    values = {"lab_state": state, "lab_name": name, "lab_dir": str(folder), "lab_model": "small", **variables}
    return run(BIN / "ansible-playbook", "gpufleet.warmstart.lab", "-e", json.dumps(values), *options, timeout=900)


@dataclass
class Lab:
    folder: Path
    hosts: list[str]

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory"

    @cached_property
    def _server(self) -> subprocess.Popen:
        command = [sys.executable, str(Path(__file__).with_name("module_server.py")), str(self.inventory)]
        return subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_error) -> None:
        if "_server" in self.__dict__:
            self._server.communicate()
            del self._server

    def ansible(self, module: str, args: dict | None = None, host: str | None = None, *, check: bool = False, diff: bool = False) -> dict:
        request = {"module": module, "args": args or {}, "host": host or self.hosts[0], "check": check, "diff": diff}
        print(json.dumps(request), file=self._server.stdin, flush=True)
        answer = self._server.stdout.readline()
        assert answer, f"module_server.py ended with {self._server.wait()}"
        result = json.loads(answer)
        assert result, f"no result from {module}"
        assert not result.get("unreachable"), result
        return result

    def playbook(self, name: str, extra_vars: dict | None = None, *options: str) -> tuple[int, str]:
        if "." not in name and "/" not in name:
            name = f"gpufleet.warmstart.{name}"
        done = run(BIN / "ansible-playbook", "-i", self.inventory, name, "-e", json.dumps(extra_vars or {}), *options, timeout=1200)
        return done.returncode, done.stdout + done.stderr

    @cached_property
    def _addresses(self) -> dict[str, dict]:
        return json.loads(run(BIN / "ansible-inventory", "-i", self.inventory, "--list").stdout)["_meta"]["hostvars"]

    def ssh(self, host: str, command: str, *, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        address = self._addresses[host]["ansible_host"]
        options = [f"UserKnownHostsFile={self.folder}/known_hosts", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes"]
        done = run(
            *("ssh", "-i", self.folder / "id_ed25519", *(word for option in options for word in ("-o", option))),
            *(f"root@{address}", command),
            timeout=timeout,
        )
        assert not check or done.returncode == 0, f"{host}: {command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done
