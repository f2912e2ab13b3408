# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixture `lab`: two real hosts for a test session, made by role lab with the small model and removed at the end (KEEP=1 keeps them).

    def test_version(lab):
        result = lab.ansible("gpufleet.warmstart.criu_check", {"features": ["mem_dirty_track"]}, host=lab.hosts[0])
        assert result["ready"]

- lab.hosts        names of the hosts, lab.inventory the folder for `ansible -i`, lab.folder the one above it
- lab.ansible(module, args, host, check=, diff=)   one module call over SSH; returns the module's whole result; a failure is a
                   result with failed=True, an unreachable host an AssertionError
- lab.playbook(name, extra_vars, *options)         `golden` is gpufleet.warmstart.golden; a path works too; returns (exit code, output)
- lab.ssh(host, command, check=, timeout=)         plain ssh; returns a CompletedProcess; check (the default) asserts exit code 0

The hosts are shared by all tests of a session and start bare (no criu): a module's or role's own fixture prepares them, and
a test removes the containers that it makes. Touches build/ and podman on this machine; needs what role lab needs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COLLECTIONS = ROOT / ".collections"
BIN = Path(sys.executable).parent


def run(*command: object, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    """One of ansible's commands, with the collection of this checkout; stdout only is meant to be parsed."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_NOCOLOR": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


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

    def ansible(self, module: str, args: dict | None = None, host: str | None = None, *, check: bool = False, diff: bool = False) -> dict:
        options = ["--check"] * check + ["--diff"] * diff
        done = run(
            *(BIN / "ansible", "-i", self.inventory, host or self.hosts[0], "-m", module, "-a", json.dumps(args or {}), *options),
            ANSIBLE_LOAD_CALLBACK_PLUGINS="1",
            ANSIBLE_STDOUT_CALLBACK="result_json",
            ANSIBLE_CALLBACK_PLUGINS=str(Path(__file__).with_name("callback_plugins")),
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert lines, f"no result from {module}: {done.stdout}{done.stderr}"
        result = json.loads(lines[-1])
        assert not result.get("unreachable"), result
        return result

    def playbook(self, name: str, extra_vars: dict | None = None, *options: str) -> tuple[int, str]:
        if "." not in name and "/" not in name:
            name = f"gpufleet.warmstart.{name}"
        done = run(BIN / "ansible-playbook", "-i", self.inventory, name, "-e", json.dumps(extra_vars or {}), *options, timeout=1200)
        return done.returncode, done.stdout + done.stderr

    def ssh(self, host: str, command: str, *, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        address = json.loads(run(BIN / "ansible-inventory", "-i", self.inventory, "--host", host).stdout)["ansible_host"]
        options = [f"UserKnownHostsFile={self.folder}/known_hosts", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes"]
        done = run(
            *("ssh", "-i", self.folder / "id_ed25519", *(word for option in options for word in ("-o", option))),
            *(f"root@{address}", command),
            timeout=timeout,
        )
        assert not check or done.returncode == 0, f"{host}: {command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done


@pytest.fixture(scope="session")
def lab():
    assert (COLLECTIONS / "ansible_collections" / "gpufleet" / "warmstart").exists(), "run `make setup` first"
    assert shutil.which("ssh") or os.geteuid() == 0, "the lab needs root"
    name = os.environ.get("WSTEST", "wstest")  # another name for another session at the same time
    folder = ROOT / "build" / name
    try:
        done = run_lab("present", name, folder)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Lab(folder, [f"{name}-1", f"{name}-2"])
    finally:
        if not os.environ.get("KEEP"):
            done = run_lab("absent", name, folder)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def provisioned(lab):
    """The lab with role prerequisites applied to its hosts."""
    code, output = lab.playbook("provision")
    assert code == 0, output
    return lab
