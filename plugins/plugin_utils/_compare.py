# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two reports beside each other: which method got better, which worse, and what is within noise.

Touches nothing; read() reads one file. Used by action benchmark_compare.
"""

from __future__ import annotations

import json
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._formats import duration, number
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._report import SCHEMA
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._statistics import by_method, median, ratio_interval, seconds

HEADINGS = ("method", "before", "after", "after / before", "95% interval", "verdict")


def read(path: Path) -> dict:
    """A report.json; raises ValueError where it is none, or one of a newer schema."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(report, dict) or not isinstance(report.get("runs"), list):
        raise ValueError(f"{path} is not a report: it has no runs. Name the report.json of gpufleet.warmstart.benchmark.")
    if report.get("schema", 1) != SCHEMA:
        raise ValueError(f"{path} has schema {report['schema']}, this collection reads schema {SCHEMA}.")
    return report


def compare(before: dict, after: dict) -> dict[str, dict]:
    """Per method that both reports have: medians, their ratio (below 1 is faster), its interval, and the verdict.

    better and worse only where the whole interval says so, else within_noise; unknown where too few runs succeeded.
    """
    older, newer = by_method(before["runs"]), by_method(after["runs"])
    return {method: verdict(older[method], newer[method]) for method in newer if method in older}


def verdict(before: list[dict], after: list[dict]) -> dict:
    old, new = seconds(before, "total"), seconds(after, "total")
    interval = ratio_interval(new, old)
    found = {
        "before": median(old),
        "after": median(new),
        "ratio": median(new) / median(old) if old and new else None,
        "interval": interval,
        "failed": {"before": sum(not run["ok"] for run in before), "after": sum(not run["ok"] for run in after)},
    }
    if interval is None:
        word = "unknown"
    elif interval[0] <= 1 <= interval[1]:
        word = "within_noise"
    else:
        word = "worse" if interval[0] > 1 else "better"
    return {"verdict": word, **found}


def cells(verdicts: dict[str, dict]) -> list[list[str]]:
    """The comparison as text, one list per method, in the order of HEADINGS."""
    return [
        [
            method,
            duration(found["before"]),
            duration(found["after"]),
            number(found["ratio"]),
            " to ".join(map(number, found["interval"])) if found["interval"] else "-",
            found["verdict"].replace("_", " "),
        ]
        for method, found in verdicts.items()
    ]
