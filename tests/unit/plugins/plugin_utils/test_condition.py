# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_condition.py: what fail_if takes, what it refuses, and when it is met."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils import _condition
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._statistics import summarise

ROWS = json.loads((Path(__file__).parents[2] / "captures" / "benchmark_rows.json").read_text())["rows"]
SUMMARY = summarise(ROWS)


@pytest.mark.parametrize(
    ("condition", "is_met"),
    [
        ("restore_archive.p95 > 5", False),
        ("restore_archive.p50>1", True),
        ("cold.failed >= 1", True),
        ("restore_in_place.failed > 0", False),
        ("restore_archive.speedup < 1", True),
        ("*.failed > 0", True),
        ("*.n == 4", False),
    ],
)
def test_met(condition, is_met):
    assert bool(_condition.met([condition], SUMMARY)) == is_met


def test_says_what_it_saw():
    assert _condition.met(["*.failed > 0"], SUMMARY) == ["*.failed > 0: cold.failed is 1."]


def test_a_number_that_is_missing_is_a_failure():
    failed = summarise([{**row, "ok": False} for row in ROWS])
    assert _condition.met(["cold.p95 > 5"], failed) == ["cold.p95 > 5: cold has no p95, since 3 of 3 runs failed."]


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("restore_archive.p95 > five", "METHOD.FIELD OPERATOR NUMBER"),
        ("restore_archive.p95 > 5; import os", "METHOD.FIELD OPERATOR NUMBER"),
        ("restore_archive.p95", "METHOD.FIELD OPERATOR NUMBER"),
        ("restore_archive.p95 != 5", "METHOD.FIELD OPERATOR NUMBER"),
        ("restore_archive.p99 > 5", "no field 'p99'"),
        ("restore.p95 > 5", "no method 'restore'; there are cold, restore_in_place, restore_archive"),
    ],
)
def test_refused(condition, says):
    with pytest.raises(ValueError, match="fail_if") as error:
        _condition.met([condition], SUMMARY)
    assert says in str(error.value)
