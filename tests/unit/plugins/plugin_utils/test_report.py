# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_report.py and _formats.py: the report's files and the terminal's table, from the rows that a real benchmark left."""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
from pathlib import Path

import jsonschema
import pytest
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils import _formats, _page, _report

CAPTURED = json.loads((Path(__file__).parents[2] / "captures" / "benchmark_rows.json").read_text())
ROWS, HOSTS = CAPTURED["rows"], CAPTURED["hosts"]
CREATED = datetime.datetime(2026, 11, 21, 21, 48, tzinfo=datetime.timezone.utc)


def built(rows):
    return _report.build(rows, HOSTS, "gpufleet.warmstart 0.1.0", CREATED)


@pytest.fixture(scope="module")
def report():
    return built(ROWS)


def test_json_follows_its_schema(report):
    schema = json.loads((Path(__file__).parents[4] / "docs" / "report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(report, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**report, "runs": [{**report["runs"][0], "seconds": {"total": "long"}}]}, schema)
    assert report["schema"] == 1
    assert report["created"] == "2026-11-21T21:48:00+00:00"
    assert len(report["runs"]) == len(ROWS)
    for run, row in zip(report["runs"], ROWS, strict=True):
        known = {part for part, value in row["seconds"].items() if value is not None}
        assert set(run["seconds"]) == {"podman", "criu", "healthy", "first_token", "total"} | known


def test_missing_parts_are_null(report):
    cold, failed = report["runs"][0]["seconds"], report["runs"][3]
    assert cold["criu"] is None
    assert cold["total"] == 0.613266
    assert failed["reason"] == "server_exited"
    assert set(failed["seconds"].values()) == {None}


def test_csv_has_every_iteration(report):
    lines = list(csv.DictReader(io.StringIO(_formats.as_csv(report))))
    assert len(lines) == len(ROWS)
    assert lines[0]["total"] == "0.613266"
    assert lines[0]["criu"] == ""
    assert (lines[3]["ok"], lines[3]["reason"], lines[3]["total"]) == ("false", "server_exited", "")


def test_table_lines_up(report):
    lines = _formats.as_table(report).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines] == ["method", "cold", "restore_in_place", "restore_archive"]
    assert lines[2].split()[:12] == "restore_in_place 3 0 0.559 s 0.666 s 0.525 s 0.678 s 1.09".split()


def test_markdown_says_which_is_slower_and_what_failed(report):
    text = _formats.as_markdown(report)
    assert "- restore_in_place cannot be told from a cold start: 1.09 times as fast (95% interval: 0.89 to 1.17)." in text
    assert "- restore_archive is slower than a cold start: it takes 1.87 times as long (95% interval: 1.69 to 2.13)." in text
    assert "| lab-1 | cold | 2 | server_exited | The container ended" in text
    assert "| lab-1 | 2 | 4.2.1 | 6.18.44-fc-v445 | debian forky | 5.8.6 | crun version 1.28 |" in text


def test_markdown_of_nothing_but_failures():
    rows = [{**row, "ok": False, "seconds": {}, "reason": "tcp_established", "msg": "a | b\nc"} for row in ROWS]
    text = _formats.as_markdown(built(rows))
    assert "- cold failed every time." in text
    assert "| lab-1 | restore_archive | 1, 2, 3 | tcp_established | a \\| b c |" in text


def test_markdown_without_cold():
    rows = [row for row in ROWS if row["method"] != "cold"]
    assert "- restore_in_place has no cold start to be compared with." in _formats.as_markdown(built(rows))


def test_write_replaces_an_older_report_and_leaves_nothing_beside_it(tmp_path, report):
    folder = tmp_path / "a" / "b"
    _report.write(folder, built(ROWS[:1]))
    written, left_out = _report.write(folder, report)
    assert left_out is None
    assert sorted(path.name for path in folder.iterdir()) == [
        "charts",
        *(f"report.{kind}" for kind in ("csv", "html", "json", "md", "prom")),
    ]
    assert {path.parent.name for path in written if path.suffix == ".svg"} == {"charts"}
    assert json.loads(written[0].read_text()) == report
    assert {path.stat().st_mode & 0o777 for path in written} == {0o644}


def test_without_the_library_the_page_is_left_out_and_the_rest_written(tmp_path, report, monkeypatch):
    monkeypatch.setattr(_page, "vl_convert", None)
    written, left_out = _report.write(tmp_path, report)
    assert sorted(path.name for path in written) == ["report.csv", "report.json", "report.md", "report.prom"]
    assert "report.html and its charts are left out" in left_out
    assert "vl-convert-python" in left_out


def test_the_same_report_is_drawn_the_same(report):
    first, second = _page.files(report), _page.files(report)
    assert first == second
    assert {"charts/time.svg", "charts/distribution.svg", "charts/speedup.svg"} < set(first)


def test_text_of_a_server_cannot_end_the_script():
    rows = [{**ROWS[0], "host": "</script><b>"}, {**ROWS[3], "msg": "</script><i>"}]
    page = _page.files(built(rows))["report.html"]
    assert "</script><" + "b>" not in page
    assert "&lt;/script&gt;&lt;i&gt;" in page


def test_prometheus_textfile():
    rows = [{**ROWS[0], "host": 'a"b\\c'}, {**ROWS[3], "host": 'a"b\\c'}]
    lines = _formats.as_prometheus(built(rows)).splitlines()
    assert r'warmstart_benchmark_seconds{host="a\"b\\c",method="cold",quantile="0.5"} 0.613266' in lines
    assert r'warmstart_benchmark_failed_runs{host="a\"b\\c",method="cold"} 1' in lines
    assert lines.count("# TYPE warmstart_benchmark_seconds gauge") == 1
    assert all(line.startswith("#") or re.fullmatch(r'[a-z_]+(\{([a-z]+="([^"\\]|\\.)*",?)+\})? -?[0-9.]+', line) for line in lines)


def test_warm_up_iterations_are_not_counted():
    report = built([{**ROWS[0], "iteration": 0}, *ROWS])
    assert len(report["runs"]) == len(ROWS)


def test_classes_and_hosts_have_summaries_of_their_own():
    rows = [*ROWS, *({**row, "host": "lab-2"} for row in ROWS)]
    hosts = {"lab-1": {**HOSTS["lab-1"], "class": "cpu-1"}, "lab-2": {"class": "cpu-2"}}
    report = _report.build(rows, hosts, "gpufleet.warmstart 0.1.0", CREATED)
    assert set(report["classes"]) == {"cpu-1", "cpu-2"}
    assert report["classes"]["cpu-1"] == report["by_host"]["lab-1"] == built(ROWS)["summary"]
    assert report["summary"]["cold"]["n"] == 6


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
