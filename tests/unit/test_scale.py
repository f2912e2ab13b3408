# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated fleet of tests/bench/scale.py: playbook rollout runs through on it, and it refuses what it has no capture of."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path[:0] = [str(BENCH), str(BENCH / "connection")]
from ansible.errors import AnsibleError
from scale import ROOT, Fleet
from simulated import asked_for, captured

pytestmark = pytest.mark.skipif(not (ROOT / ".collections").exists(), reason="run `make setup` first")


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


def test_rollout_runs_through(fleet):
    made = fleet.play("rollout", 3, 3, "-e", "warmstart_serial=3")
    assert made.code == 0, made.output
    ended = re.findall(r"^gpu000[0-2] .* unreachable=0 +failed=0 ", made.output, re.MULTILINE)
    assert len(ended) == 3, made.output
    for module in ("golden_compatibility", "golden_fetch", "podman_restore", "golden_versions"):
        assert made.calls[f"gpufleet.warmstart.{module}"] >= 3, made.calls
    assert made.sent > 3 * 100_000
    assert made.results / 3 > 10


def test_module_without_a_capture():
    with pytest.raises(AnsibleError, match=r"no capture of gpufleet\.warmstart\.podman_pause\.check"):
        captured("gpufleet.warmstart.podman_pause.check")


def test_what_a_payload_asks_for():
    sent = "_ansiballz_main(\nansible_module='{}',\nparams='{{\"_ansible_check_mode\": {}}}',\nzip_data='UEs',\n)\n"
    assert asked_for(sent.format("ansible.legacy.command", "false").encode()) == "command"
    assert asked_for(sent.format("gpufleet.warmstart.podman_restore", "true").encode()) == "gpufleet.warmstart.podman_restore.check"
    assert asked_for(b"echo") == asked_for(None) == ""
