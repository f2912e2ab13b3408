# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_statistics.py: percentiles against Python's own, and the summary of the rows that a real benchmark left."""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._statistics import middles, quantile, ratio_interval, spread, summarise

ROWS = json.loads((Path(__file__).parents[2] / "captures" / "benchmark_rows.json").read_text())["rows"]


@pytest.mark.parametrize("count", [2, 3, 5, 20, 101])
def test_quantile_is_pythons_inclusive_one(count):
    values = [((number * 7919) % 104729) / 1000 for number in range(count)]
    percentiles = statistics.quantiles(values, n=100, method="inclusive")
    assert quantile(values, 0.95) == pytest.approx(percentiles[94])
    assert quantile(values, 0.5) == pytest.approx(statistics.median(values))


def test_one_value_is_all_of_them():
    assert spread([1.5]) == {"p50": 1.5, "p95": 1.5, "min": 1.5, "max": 1.5}


def test_no_value():
    assert spread([]) == {"p50": None, "p95": None, "min": None, "max": None}


def test_summary_of_a_real_run():
    summary = summarise(ROWS)
    assert list(summary) == ["cold", "restore_in_place", "restore_archive"]
    # Read off the captured rows by eye: 3 cold starts, of which the second failed.
    assert (summary["cold"]["n"], summary["cold"]["failed"]) == (3, 1)
    assert summary["cold"]["total"]["p50"] == pytest.approx((0.613266 + 0.603778) / 2, abs=1e-6)
    assert summary["cold"]["speedup_over_cold"] == 1.0
    in_place = summary["restore_in_place"]
    assert (in_place["n"], in_place["failed"]) == (3, 0)
    assert in_place["total"]["p50"] == pytest.approx(0.559144, abs=1e-6)
    assert in_place["total"]["p95"] == pytest.approx(0.559144 + 0.9 * (0.677759 - 0.559144), abs=1e-5)
    assert (in_place["total"]["min"], in_place["total"]["max"]) == pytest.approx((0.525181, 0.677759), abs=1e-6)
    assert in_place["speedup_over_cold"] == pytest.approx(0.608522 / 0.559144, abs=1e-4)
    assert summary["restore_archive"]["speedup_over_cold"] == pytest.approx(0.608522 / 1.135401, abs=1e-4)


def test_a_failed_iteration_with_a_total_does_not_count():
    slow = {**ROWS[1], "ok": False, "seconds": {"total": 99.0}, "reason": "timed_out"}
    summary = summarise([*ROWS, slow])["restore_in_place"]
    assert (summary["n"], summary["failed"]) == (4, 1)
    assert summary["total"]["max"] < 1


@pytest.mark.parametrize("keep", [lambda row: row["method"] != "cold", lambda row: row["method"] != "cold" or not row["ok"]])
def test_without_a_cold_start_there_is_no_speedup(keep):
    summary = summarise([row for row in ROWS if keep(row)])
    assert {entry["speedup_over_cold"] for entry in summary.values()} == {None}


def test_no_rows():
    assert summarise([]) == {}


@pytest.mark.parametrize("count", [2, 3, 10, 11])
def test_bootstrap_medians_are_those_of_sorted_resamples(count):
    """The shortcut of middles() against a bootstrap as it is written in books: the same distribution of the median's position."""
    rng = random.Random(5)
    plain = [statistics.median(rng.choices(range(count), k=count)) for _resample in range(20000)]
    short = [(low + high) / 2 for seed in range(20) for low, high in middles(count, seed)]
    assert statistics.mean(short) == pytest.approx(statistics.mean(plain), abs=0.06)
    assert statistics.stdev(short) == pytest.approx(statistics.stdev(plain), rel=0.05)


def test_interval_is_the_same_every_time_and_covers_the_truth():
    rng = random.Random(7)
    covered = 0
    for _experiment in range(200):
        cold, warm = ([rng.lognormvariate(mean, 0.1) for _run in range(15)] for mean in (1.0, 0.0))
        low, high = ratio_interval(cold, warm)
        assert ratio_interval(list(reversed(cold)), warm) == [low, high]
        covered += low <= 2.718281828 <= high
    assert 180 <= covered <= 200


def test_interval_needs_two_runs_of_each():
    assert ratio_interval([1.0], [1.0, 2.0]) is None


def test_a_checkpoint_is_not_compared_with_a_cold_start():
    taken = {**ROWS[1], "method": "freeze", "kind": "checkpoint"}
    assert summarise([*ROWS, taken])["freeze"]["speedup_over_cold"] is None


def test_a_cold_start_of_another_name_is_the_baseline():
    rows = [{**row, "method": "plain", "kind": "cold"} if row["method"] == "cold" else row for row in ROWS]
    assert summarise(rows)["restore_in_place"]["speedup_over_cold"] == summarise(ROWS)["restore_in_place"]["speedup_over_cold"]
