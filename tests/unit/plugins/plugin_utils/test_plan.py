# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_plan.py and _journal.py: what benchmark_methods takes and refuses, what is shared, and a journal that was cut off."""

from __future__ import annotations

import pytest
from ansible_collections.gpufleet.warmstart.plugins.action.benchmark_record import line, span
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils import _plan
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._journal import Journal

ZSTD = {"name": "zstd", "method": "restore_archive", "checkpoint": {"compress": "zstd"}}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "is empty"),
        (["cold", "cold"], "'cold' is there twice"),
        (["lukewarm"], "no method 'lukewarm'; there are cold, restore_in_place"),
        ([7], "7 is neither a name nor a dictionary"),
        ([{"name": "a"}], "neither a name nor a dictionary with name and method"),
        ([{"name": "a b", "method": "cold"}], "a name has up to 60 letters"),
        ([{"name": "a", "method": "cold", "restore": {}}], "there is no restore; there are name, method, page_cache"),
        ([{"name": "a", "method": "cold", "page_cache": "hot"}], "page_cache is 'hot'"),
        ([{**ZSTD, "checkpoint": {"compres": "zstd"}}], "'zstd', checkpoint: there is no compres"),
        ([{**ZSTD, "checkpoint": "zstd"}], "checkpoint must be a dictionary"),
        ([{**ZSTD, "store": "here"}], "it must be an absolute path"),
    ],
)
def test_refused(given, says):
    with pytest.raises(ValueError, match="benchmark_methods") as error:
        _plan.methods(given)
    assert says in str(error.value)


def test_equal_checkpoints_are_shared_and_others_are_not():
    given = [
        "cold",
        "restore_in_place",
        {"name": "thp", "method": "restore_in_place", "restore": {"thp": "unchanged"}},
        "restore_archive",
        ZSTD,
    ]
    given.append({"name": "locks", "method": "restore_in_place", "checkpoint": {"file_locks": True}})
    placed, checkpoints = _plan.with_checkpoints(_plan.methods(given), "llama", "/store")
    by_name = {entry["name"]: entry for entry in placed}
    assert by_name["restore_in_place"]["checkpoint_id"] == by_name["thp"]["checkpoint_id"] == "in-place"
    assert by_name["locks"]["container"] == "llama-benchmark-in-place-2"
    assert by_name["cold"]["container"] == by_name["zstd"]["container"] == "llama-benchmark"
    assert [(taken["id"], taken["archive"]) for taken in checkpoints if taken["kind"] == "restore_archive"] == [
        ("archive", "/store/llama-benchmark/archive/checkpoint.tar"),
        ("archive-2", "/store/llama-benchmark/archive-2/checkpoint.tar"),
    ]


def test_rows_are_interleaved_and_warm_ups_end_with_0():
    rows = _plan.rows(_plan.methods(["cold", "cold_page_cache"]), "a", 2, 1)
    assert [(row["iteration"], row["method"]) for row in rows] == [(at, name) for at in (0, 1, 2) for name in ("cold", "cold_page_cache")]
    assert {row["reason"] for row in rows} == {"not_run"}


def test_journal_goes_on_after_half_a_line(tmp_path):
    journal = Journal(tmp_path, "a/b")
    assert journal.begin("plan", resume=True) == ([], [])
    journal.add(row={"method": "cold", "iteration": 1})
    journal.add(checkpoint={"name": "archive"})
    with journal.path.open("a") as file:
        file.write('{"row": {"meth')
    assert Journal(tmp_path, "a/b").begin("plan", resume=True) == ([{"method": "cold", "iteration": 1}], [{"name": "archive"}])
    with pytest.raises(ValueError, match="begun with other methods"):
        journal.begin("another plan", resume=True)
    assert journal.begin("another plan", resume=False) == ([], [])
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a%2Fb.jsonl"]


def test_pace_counts_this_run_only(tmp_path, monkeypatch):
    clock = iter([100.0, 1000.0, 5000.0, 5100.0, 5110.0, 5120.0])
    monkeypatch.setattr("time.time", lambda: next(clock))
    journal = Journal(tmp_path, "a")
    journal.begin("plan", resume=True)
    journal.add(row={})
    assert journal.progress(10) == (1, None)
    journal.begin("plan", resume=True)
    for _row in range(3):
        journal.add(row={})
    assert journal.progress(10) == (4, 60.0)


def test_progress_is_one_plain_line():
    row = {"host": "gpu-1", "method": "cold", "iteration": 0, "ok": True, "seconds": {"total": 1.6}}
    assert line(row, 1, 15, None) == "gpu-1: cold warm-up: 1.60 s, 1 of 15 done"
    failed = {**row, "iteration": 2, "ok": False, "reason": "server_exited"}
    assert line(failed, 7, 15, 45.2) == "gpu-1: cold iteration 2: failed: server_exited, 7 of 15 done, 45 s left"
    assert [span(seconds) for seconds in (89, 600, 12000)] == ["89 s", "10 min", "3 h 20 min"]
