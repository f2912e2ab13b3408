# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""benchmark_report as a task: run by ansible itself on the rows that a real benchmark left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
CAPTURED = json.loads((ROOT / "tests" / "unit" / "captures" / "benchmark_rows.json").read_text())


@pytest.fixture
def report(tmp_path):
    """Run the task with these arguments; exit code and output. The host cannot be reached, and need not be."""

    def run(*options, module="benchmark_report", **arguments):
        told = arguments if module != "benchmark_report" else {"directory": str(tmp_path / "report"), **CAPTURED, **arguments}
        task = {f"gpufleet.warmstart.{module}": told}
        (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
        done = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), "-i", "192.0.2.1,", tmp_path / "play.yml", *options],
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_writes_and_prints(report, tmp_path):
    code, output = report()
    assert code == 0, output
    assert "restore_in_place 3 0 0.559 s 0.666 s 0.525 s 0.678 s 1.09".split() in [line.split()[:12] for line in output.splitlines()]
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert written["collection"] == "gpufleet.warmstart 0.1.0"
    assert written["hosts"] == CAPTURED["hosts"]
    assert len(written["runs"]) == len(CAPTURED["rows"])


def test_check_mode_writes_and_prints_nothing(report, tmp_path):
    code, output = report("--check")
    assert code == 0, output
    assert "restore_in_place" not in output
    assert not (tmp_path / "report").exists()


def test_a_folder_that_cannot_be_made_is_an_error(report, tmp_path):
    (tmp_path / "file").write_text("")
    code, output = report(directory=str(tmp_path / "file" / "report"))
    assert code != 0
    assert f"No report in {tmp_path}/file/report" in output


def test_a_row_that_lacks_something_is_an_error(report, tmp_path):
    code, output = report(rows=[{"host": "a", "method": "cold", "iteration": 1, "ok": True}])
    assert code != 0
    assert "rows[0] has no seconds." in output
    assert not (tmp_path / "report").exists()


def test_fail_if_fails_once_the_report_is_written(report, tmp_path):
    code, output = report(fail_if=["restore_archive.p95 > 0.1", "cold.p50 > 60"])
    assert code == 2, output
    assert "restore_archive.p95 > 0.1: restore_archive.p95 is" in output
    assert "cold.p50" not in output
    assert (tmp_path / "report" / "report.json").is_file()


def test_compare_fails_where_a_method_got_worse(report, tmp_path):
    slower = [{**row, "seconds": {part: 3 * value for part, value in row["seconds"].items()}} for row in CAPTURED["rows"]]
    for name, rows in (("old", CAPTURED["rows"]), ("new", slower)):
        assert report(directory=str(tmp_path / name), rows=rows)[0] == 0
    files = {"before": str(tmp_path / "old" / "report.json"), "after": str(tmp_path / "new" / "report.json")}
    code, output = report(module="benchmark_compare", **files)
    assert code == 0, output
    assert "restore_in_place 0.559 s 1.68 s 3.00".split() in [line.split()[:6] for line in output.splitlines()]
    code, output = report(module="benchmark_compare", fail_if_worse=True, **files)
    assert code == 2, output
    assert "Worse: cold, restore_in_place, restore_archive." in output
    code, output = report(module="benchmark_compare", before=files["before"], after=str(tmp_path / "play.yml"))
    assert "Nothing compared:" in output
