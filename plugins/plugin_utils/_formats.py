# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's report as text: report.csv, report.md, report.prom, and the table for the terminal, out of report.json.

Touches nothing. The other way round, _report.py builds the report and writes the files.
"""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Callable, Sequence

from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._statistics import BASELINE, CONFIDENCE, PARTS

HEADINGS = ("method", "n", "failed", "p50", "p95", "min", "max", "x faster than cold", f"{CONFIDENCE:.0%} interval")


def as_csv(report: dict) -> str:
    """One line per iteration: seconds by part, bytes by part, load, and milliseconds per token in columns of their own."""
    out = io.StringIO()
    parts = sorted({part for run in report["runs"] for part in run.get("bytes") or {}})
    columns = csv.writer(out, lineterminator="\n")
    heads = ["host", "class", "method", "kind", "iteration", "ok", *PARTS, "reason", "path_taken", "load_1m", "token_before", "token_after"]
    columns.writerow([*heads, *(f"bytes_{part}" for part in parts)])
    for run in report["runs"]:
        times = ["" if run["seconds"].get(part) is None else f"{run['seconds'][part]:.6f}" for part in PARTS]
        latency, load, sizes = run.get("token_latency") or {}, run.get("load") or [""], run.get("bytes") or {}
        about = [run["host"], report["hosts"].get(run["host"], {}).get("class", ""), run["method"], run["kind"], run["iteration"]]
        more = [run.get("reason") or "", run.get("path_taken") or "", load[0], *(latency.get(when) or "" for when in ("before", "after"))]
        columns.writerow([*about, str(run["ok"]).lower(), *times, *more, *(sizes.get(part, "") for part in parts)])
    return out.getvalue()


def summary_cells(summary: dict[str, dict]) -> list[list[str]]:
    """A summary as text, one list per method, in the order of HEADINGS."""
    return [
        [
            method,
            str(entry["n"]),
            str(entry["failed"]),
            *(duration(entry["total"][key]) for key in ("p50", "p95", "min", "max")),
            number(entry["speedup_over_cold"]),
            "-" if not entry["speedup_interval"] else " to ".join(map(number, entry["speedup_interval"])),
        ]
        for method, entry in summary.items()
    ]


def number(value: float | None) -> str:
    """A ratio: two decimals below 10, one below 100; a dash for nothing."""
    return "-" if value is None else f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def duration(value: float | None) -> str:
    """Seconds, to the millisecond below 1; a dash for nothing."""
    return "-" if value is None else f"{value:.{3 if value < 1 else 2 if value < 10 else 1}f} s"


def size(value: int | None) -> str:
    """Bytes for people; a dash for nothing."""
    if not value:
        return "-"
    power = min(max(len(str(value)) - 1, 0) // 3, 4)
    return f"{value / 1000**power:.{0 if power == 0 else 1}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def as_table(report: dict) -> str:
    """The summary for a terminal."""
    return text_table(HEADINGS, summary_cells(report["summary"]))


def text_table(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Plain text in columns: the first to the left, the others to the right."""
    lines = [list(headings), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    align: list[Callable] = [str.ljust] + [str.rjust] * (len(headings) - 1)
    return "\n".join("  ".join(pad(cell, width) for pad, cell, width in zip(align, line, widths, strict=True)).rstrip() for line in lines)


def markdown_table(headings: Sequence[str], lines: Sequence[Sequence[object]]) -> list[str]:
    cells = [headings, ["---"] * len(headings), *lines]
    return ["| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in cells]


def as_markdown(report: dict) -> str:
    """The report for people: the summary in a table and in words, where the time goes, classes, hosts, what failed and why."""
    summary = report["summary"]
    parts = [part for part in PARTS if any(part in entry["parts"] for entry in summary.values())]
    where = [
        [name, *(duration(entry["parts"].get(part)) for part in parts), duration(entry["total"]["p50"])] for name, entry in summary.items()
    ]
    text = [
        "# Cold start and restore, to the first token",
        "",
        f"{report['created']}, {report['collection']}, {len(report['hosts'])} host{'s' * (len(report['hosts']) != 1)}.",
        "Times are from the start or restore command to the first token. p50, p95, min and max are of the iterations that succeeded.",
        "",
        *markdown_table(HEADINGS, summary_cells(summary)),
        "",
        *(f"- {sentence}" for sentence in in_words(summary)),
        "",
        "## Where the time goes (medians)",
        "",
        *markdown_table(("method", *parts, "total"), where),
        "",
        "criu is a part of podman, and freezing, frozen, dump, write, forking and restore are parts of criu; cuda_restore and unlock are",
        "parts of resume. unpack, podman, resume, engine_wake, healthy and first_token add up to the total.",
    ]
    for name, own in report["classes"].items():
        text += ["", f"## Class {name}", "", *markdown_table(HEADINGS, summary_cells(own))]
    if report["checkpoints"]:
        text += ["", "## Checkpoints", "", *markdown_table(*checkpoint_cells(report["checkpoints"]))]
    facts = list(dict.fromkeys(fact for host in report["hosts"].values() for fact in host))
    hosts = [[name, *(host.get(fact, "-") for fact in facts)] for name, host in report["hosts"].items()]
    text += ["", "## Hosts", "", *markdown_table(("host", *facts), hosts)]
    if failed := failures(report["runs"]):
        text += ["", "## Failed iterations", "", *markdown_table(("host", "method", "iterations", "reason", "what was said"), failed)]
    return "\n".join(text) + "\n"


def checkpoint_cells(checkpoints: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: host, what, the whole size, then bytes by part."""
    parts = list(dict.fromkeys(part for taken in checkpoints for part in taken["parts"]))
    lines = [
        [taken["host"], taken["name"], size(taken["size"]), *(size(taken["parts"].get(part)) for part in parts)] for taken in checkpoints
    ]
    return ["host", "checkpoint", "stored", *parts], lines


def as_prometheus(report: dict) -> str:
    """For node_exporter's textfile collector: one sample per host and method."""
    samples: dict[tuple[str, str], list[str]] = {}
    for host, methods in report["by_host"].items():
        labels = {"host": host, **({"class": known} if (known := report["hosts"].get(host, {}).get("class")) else {})}
        for method, entry in methods.items():
            about = {**labels, "method": method}
            add(samples, "runs", "Iterations that were asked for.", about, entry["n"])
            add(samples, "failed_runs", "Iterations that failed.", about, entry["failed"])
            for name, share in (("min", "0"), ("p50", "0.5"), ("p95", "0.95"), ("max", "1")):
                add(samples, "seconds", "Seconds to the first token.", {**about, "quantile": share}, entry["total"][name])
            add(samples, "speedup", "Cold start's median over this method's.", about, entry["speedup_over_cold"])
    created = datetime.datetime.fromisoformat(report["created"]).timestamp()
    add(samples, "created_timestamp_seconds", "When the report was made.", {}, created)
    blocks = ([f"# HELP {name} {text}", f"# TYPE {name} gauge", *lines] for (name, text), lines in samples.items())
    return "".join(f"{line}\n" for block in blocks for line in block)


def add(samples: dict[tuple[str, str], list[str]], name: str, text: str, labels: dict[str, str], value: float | None) -> None:
    if value is None:
        return
    escaped = {key: str(given).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for key, given in labels.items()}
    pairs = ",".join(f'{key}="{given}"' for key, given in escaped.items())
    name = f"warmstart_benchmark_{name}"
    samples.setdefault((name, text), []).append(f"{name}{'{' + pairs + '}' if pairs else ''} {value:.6f}".rstrip("0").rstrip("."))


def failures(runs: Sequence[dict]) -> list[list[str]]:
    """One line for all iterations that failed on a host, with a method, in the same way."""
    alike: dict[tuple, list[str]] = {}
    for run in runs:
        if not run["ok"]:
            alike.setdefault((run["host"], run["method"], run.get("reason"), run.get("msg")), []).append(str(run["iteration"]))
    return [[host, method, ", ".join(iterations), reason or "-", said or "-"] for (host, method, reason, said), iterations in alike.items()]


def in_words(summary: dict[str, dict]) -> list[str]:
    """One sentence per method on how it compares with a cold start."""
    sentences = []
    cold = baseline_of(summary)
    for method, entry in summary.items():
        speedup, interval = entry["speedup_over_cold"], entry["speedup_interval"]
        if entry["failed"] == entry["n"]:
            sentences.append(f"{method} failed every time.")
        elif method == cold or entry["kind"] == "checkpoint":
            continue
        elif speedup is None:
            sentences.append(f"{method} has no cold start to be compared with.")
        elif interval and interval[0] <= 1 <= interval[1]:
            sentences.append(f"{method} cannot be told from a cold start: {number(speedup)} times as fast{sure(interval)}.")
        elif speedup < 1:
            longer = interval and [1 / bound for bound in reversed(interval)]
            sentences.append(f"{method} is slower than a cold start: it takes {number(1 / speedup)} times as long{sure(longer)}.")
        else:
            sentences.append(f"{method} is {number(speedup)} times faster than a cold start{sure(interval)}.")
    return sentences


def sure(interval: list[float] | None) -> str:
    return f" ({CONFIDENCE:.0%} interval: {' to '.join(map(number, interval))})" if interval else ""


def baseline_of(summary: dict[str, dict]) -> str | None:
    return BASELINE if BASELINE in summary else next((name for name, entry in summary.items() if entry["kind"] == BASELINE), None)
