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

import os

import pytest
from labtool import COLLECTIONS, ROOT, Lab, run_lab


@pytest.fixture(scope="session")
def lab():
    assert (COLLECTIONS / "ansible_collections" / "gpufleet" / "warmstart").exists(), "run `make setup` first"
    name = os.environ.get("WSTEST", "wstest")  # another name for another session at the same time
    folder = ROOT / "build" / name
    try:
        done = run_lab("present", name, folder)
        assert done.returncode == 0, done.stdout + done.stderr
        with Lab(folder, [f"{name}-1", f"{name}-2"]) as made:
            yield made
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
