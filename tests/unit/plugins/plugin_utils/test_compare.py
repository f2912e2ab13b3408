# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_compare.py: a real benchmark against itself, against a slower and a faster one, and files that are no report."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils import _compare, _report

ROWS = json.loads((Path(__file__).parents[2] / "captures" / "benchmark_rows.json").read_text())["rows"]


def report(factor: float = 1.0) -> dict:
    rows = [{**row, "seconds": {part: value * factor for part, value in row["seconds"].items()}} for row in ROWS]
    return _report.build(rows, {}, "gpufleet.warmstart 0.1.0", datetime.datetime.now(datetime.timezone.utc))


@pytest.mark.parametrize(("factor", "word"), [(1.0, "within_noise"), (1.01, "within_noise"), (3.0, "worse"), (0.3, "better")])
def test_verdicts(factor, word):
    verdicts = _compare.compare(report(), report(factor))
    assert list(verdicts) == ["cold", "restore_in_place", "restore_archive"]
    assert {found["verdict"] for found in verdicts.values()} == {word}
    assert verdicts["cold"]["ratio"] == pytest.approx(factor, rel=1e-4)
    assert verdicts["cold"]["failed"] == {"before": 1, "after": 1}


def test_one_run_is_too_few():
    few = {**report(), "runs": report()["runs"][:3]}
    assert {found["verdict"] for found in _compare.compare(report(), few).values()} == {"unknown"}


@pytest.mark.parametrize(
    ("text", "says"),
    [("no json", "is not JSON"), ("[]", "is not a report"), ('{"runs": [], "schema": 9}', "schema 9, this collection reads schema 1")],
)
def test_files_that_are_no_report(tmp_path, text, says):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        _compare.read(tmp_path / "report.json")
