# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_report.py: the three files and the terminal's table, from the rows that a real benchmark left."""

from __future__ import annotations

import csv
import datetime
import io
import json
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils import _report

CAPTURED = json.loads((Path(__file__).parents[2] / "captures" / "benchmark_rows.json").read_text())
ROWS, HOSTS = CAPTURED["rows"], CAPTURED["hosts"]
CREATED = datetime.datetime(2026, 11, 21, 21, 48, tzinfo=datetime.timezone.utc)


def built(rows):
    return _report.build(rows, HOSTS, "gpufleet.warmstart 0.1.0", CREATED)


@pytest.fixture(scope="module")
def report():
    return built(ROWS)


def test_json_has_these_keys_and_no_others(report):
    assert list(report) == ["created", "collection", "hosts", "runs", "summary"]
    assert report["created"] == "2026-11-21T21:48:00+00:00"
    assert len(report["runs"]) == len(ROWS)
    for run, row in zip(report["runs"], ROWS, strict=True):
        assert set(run) == {"host", "method", "iteration", "ok", "seconds"} | ({"reason"} if not row["ok"] else set())
        assert list(run["seconds"]) == ["podman", "criu", "healthy", "first_token", "total"]
    assert set(report["summary"]["cold"]) == {"n", "failed", "total", "speedup_over_cold"}
    assert set(report["summary"]["cold"]["total"]) == {"p50", "p95", "min", "max"}


def test_missing_parts_are_null(report):
    cold, failed = report["runs"][0]["seconds"], report["runs"][3]
    assert cold["criu"] is None
    assert cold["total"] == 0.613266
    assert failed["reason"] == "server_exited"
    assert set(failed["seconds"].values()) == {None}


def test_csv_has_every_iteration(report):
    lines = list(csv.DictReader(io.StringIO(_report.as_csv(report))))
    assert len(lines) == len(ROWS)
    assert lines[0]["total"] == "0.613266"
    assert lines[0]["criu"] == ""
    assert (lines[3]["ok"], lines[3]["reason"], lines[3]["total"]) == ("false", "server_exited", "")


def test_table_lines_up(report):
    lines = _report.as_table(report).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines] == ["method", "cold", "restore_in_place", "restore_archive"]
    assert lines[2].split() == ["restore_in_place", "3", "0", "0.559", "s", "0.666", "s", "0.525", "s", "0.678", "s", "1.09"]


def test_markdown_says_which_is_slower_and_what_failed(report):
    text = _report.as_markdown(report, ROWS)
    assert "- restore_in_place is 1.09 times faster than a cold start." in text
    assert "- restore_archive is slower than a cold start: it takes 1.87 times as long." in text
    assert "| lab-1 | cold | 2 | server_exited | The container ended" in text
    assert "| lab-1 | 2 | 4.2.1 | 6.18.44-fc-v445 | debian forky | 5.8.6 | crun version 1.28 |" in text


def test_markdown_of_nothing_but_failures():
    rows = [{**row, "ok": False, "seconds": {}, "reason": "tcp_established", "msg": "a | b\nc"} for row in ROWS]
    text = _report.as_markdown(built(rows), rows)
    assert "- cold failed every time." in text
    assert "| lab-1 | restore_archive | 1, 2, 3 | tcp_established | a \\| b c |" in text


def test_markdown_without_cold():
    rows = [row for row in ROWS if row["method"] != "cold"]
    assert "- restore_in_place has no cold start to be compared with." in _report.as_markdown(built(rows), rows)


def test_write_replaces_an_older_report_and_leaves_nothing_beside_it(tmp_path, report):
    folder = tmp_path / "a" / "b"
    _report.write(folder, built(ROWS[:1]), ROWS[:1])
    written = _report.write(folder, report, ROWS)
    assert sorted(path.name for path in folder.iterdir()) == ["report.csv", "report.json", "report.md"]
    assert json.loads(written[0].read_text()) == report
    assert {path.stat().st_mode & 0o777 for path in written} == {0o644}


def test_a_write_that_fails_keeps_the_older_report(tmp_path, report, monkeypatch):
    path = _report.replace(tmp_path / "report.json", "old")

    def fail(*_arguments):
        raise OSError("disk full")

    monkeypatch.setattr(_report.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        _report.replace(path, "new")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("report.json", "old")]


def test_a_row_without_its_method_is_refused():
    with pytest.raises(ValueError, match=r"rows\[1\] has no method\."):
        _report.check_rows([ROWS[0], {key: value for key, value in ROWS[1].items() if key != "method"}])
