# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's report: report.json, report.csv and report.md out of the rows of all hosts, and the table for the terminal.

Touches only the three files it is told to write, on the controller. The numbers come from _statistics.py.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._statistics import BASELINE, PARTS, by_method, seconds, spread, summarise

HEADINGS = ("method", "n", "failed", "p50", "p95", "min", "max", "x faster than cold")
ROW_KEYS = ("host", "method", "iteration", "ok", "seconds")


def check_rows(rows: Sequence[dict]) -> None:
    """Raise ValueError for the first row that lacks what the report needs."""
    for position, row in enumerate(rows):
        if missing := [key for key in ROW_KEYS if key not in row]:
            raise ValueError(f"rows[{position}] has no {', '.join(missing)}.")


def build(rows: Sequence[dict], hosts: dict[str, dict], collection: str, created: datetime.datetime) -> dict:
    """What report.json holds; its keys are described in docs/benchmarks.md."""
    runs = []
    for row in rows:
        run = {key: row[key] for key in ROW_KEYS}
        run["seconds"] = {part: None if row["seconds"].get(part) is None else round(row["seconds"][part], 6) for part in PARTS}
        if not row["ok"]:
            run["reason"] = row.get("reason")
        runs.append(run)
    return {
        "created": created.isoformat(timespec="seconds"),
        "collection": collection,
        "hosts": hosts,
        "runs": runs,
        "summary": summarise(runs),
    }


def write(directory: Path, report: dict, rows: Sequence[dict]) -> list[Path]:
    """Write the three files, each beside its final name first."""
    directory.mkdir(parents=True, exist_ok=True)
    contents = {
        "report.json": json.dumps(report, indent=2) + "\n",
        "report.csv": as_csv(report),
        "report.md": as_markdown(report, rows),
    }
    return [replace(directory / name, text) for name, text in contents.items()]


def replace(path: Path, text: str) -> Path:
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    return path


def as_csv(report: dict) -> str:
    """One line per iteration, seconds in columns of their own."""
    out = io.StringIO()
    columns = csv.writer(out, lineterminator="\n")
    columns.writerow(["host", "method", "iteration", "ok", *PARTS, "reason"])
    for run in report["runs"]:
        parts = ["" if run["seconds"][part] is None else f"{run['seconds'][part]:.6f}" for part in PARTS]
        columns.writerow([run["host"], run["method"], run["iteration"], str(run["ok"]).lower(), *parts, run.get("reason") or ""])
    return out.getvalue()


def summary_cells(report: dict) -> list[list[str]]:
    """The summary as text, one list per method, in the order of HEADINGS."""
    return [
        [
            method,
            str(entry["n"]),
            str(entry["failed"]),
            *(duration(entry["total"][key]) for key in ("p50", "p95", "min", "max")),
            number(entry["speedup_over_cold"]),
        ]
        for method, entry in report["summary"].items()
    ]


def number(value: float | None) -> str:
    """A ratio: two decimals below 10, else one; a dash for nothing."""
    return "-" if value is None else f"{value:.{2 if value < 10 else 1}f}"


def duration(value: float | None) -> str:
    """Seconds, to the millisecond below 1; a dash for nothing."""
    return "-" if value is None else f"{value:.3f} s" if value < 1 else f"{number(value)} s"


def as_table(report: dict) -> str:
    """The summary for a terminal: plain text in columns."""
    lines = [list(HEADINGS), *summary_cells(report)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    align: list[Callable] = [str.ljust] + [str.rjust] * (len(HEADINGS) - 1)
    return "\n".join("  ".join(pad(cell, width) for pad, cell, width in zip(align, line, widths, strict=True)).rstrip() for line in lines)


def markdown_table(headings: Sequence[str], lines: Sequence[Sequence[object]]) -> list[str]:
    cells = [headings, ["---"] * len(headings), *lines]
    return ["| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in cells]


def as_markdown(report: dict, rows: Sequence[dict]) -> str:
    """The report for people: the summary in a table and in words, where the time goes, the hosts, what failed and why."""
    text = [
        "# Cold start and restore, to the first token",
        "",
        f"{report['created']}, {report['collection']}, {len(report['hosts'])} host{'s' * (len(report['hosts']) != 1)}.",
        "Times are from the start or restore command to the first token. p50, p95, min and max are of the iterations that succeeded.",
        "",
        *markdown_table(HEADINGS, summary_cells(report)),
        "",
        *(f"- {sentence}" for sentence in in_words(report)),
        "",
        "## Where the time goes (medians)",
        "",
        *markdown_table(("method", *PARTS), [[method, *medians(runs)] for method, runs in by_method(report["runs"]).items()]),
        "",
        "criu is a part of podman. What podman, healthy and first_token lack of the total is unpacking, GPU memory and the wake-up.",
    ]
    facts = list(dict.fromkeys(fact for host in report["hosts"].values() for fact in host))
    hosts = [[name, *(host.get(fact, "-") for fact in facts)] for name, host in report["hosts"].items()]
    text += ["", "## Hosts", "", *markdown_table(("host", *facts), hosts)]
    if failed := failures(rows):
        text += ["", "## Failed iterations", "", *markdown_table(("host", "method", "iterations", "reason", "what was said"), failed)]
    return "\n".join(text) + "\n"


def failures(rows: Sequence[dict]) -> list[list[str]]:
    """One line for all iterations that failed on a host, with a method, in the same way."""
    alike: dict[tuple, list[str]] = {}
    for row in rows:
        if not row["ok"]:
            alike.setdefault((row["host"], row["method"], row.get("reason"), row.get("msg")), []).append(str(row["iteration"]))
    return [[host, method, ", ".join(iterations), reason or "-", said or "-"] for (host, method, reason, said), iterations in alike.items()]


def medians(runs: Sequence[dict]) -> list[str]:
    values = [seconds(runs, part) for part in PARTS]
    return [duration(spread(own)["p50"]) for own in values]


def in_words(report: dict) -> list[str]:
    """One sentence per method on how it compares with a cold start."""
    sentences = []
    for method, entry in report["summary"].items():
        speedup = entry["speedup_over_cold"]
        if entry["failed"] == entry["n"]:
            sentences.append(f"{method} failed every time.")
        elif method == BASELINE:
            continue
        elif speedup is None:
            sentences.append(f"{method} has no cold start to be compared with.")
        elif speedup < 1:
            sentences.append(f"{method} is slower than a cold start: it takes {number(1 / speedup)} times as long.")
        else:
            sentences.append(f"{method} is {number(speedup)} times faster than a cold start.")
    return sentences
