# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's report: report.json out of the rows of all hosts, and the files made from it.

Touches only the files it is told to write, on the controller. The numbers come from _statistics.py, the texts from
_formats.py, the page and its charts from _page.py. docs/report.md says what report.json holds.
"""

from __future__ import annotations

import datetime
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.plugin_utils import _formats, _page
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._statistics import ALWAYS, PARTS, grouped, kind, summarise

SCHEMA = 1
ROW_KEYS = ("host", "method", "iteration", "ok", "seconds")
EXTRAS = ("path_taken", "load", "token_latency", "bytes")  # of a run, where it has them


def check_rows(rows: Sequence[dict]) -> None:
    """Raise ValueError for the first row that lacks what the report needs."""
    for position, row in enumerate(rows):
        if missing := [key for key in ROW_KEYS if key not in row]:
            raise ValueError(f"rows[{position}] has no {', '.join(missing)}.")


def build(
    rows: Sequence[dict], hosts: dict[str, dict], collection: str, created: datetime.datetime, checkpoints: Sequence[dict] = ()
) -> dict:
    """What report.json holds. Warm-up iterations, those below 1, are not in it."""
    runs = [run_of(row) for row in rows if row["iteration"] > 0]
    classes = grouped((run for run in runs if hosts.get(run["host"], {}).get("class")), lambda run: hosts[run["host"]]["class"])
    return {
        "schema": SCHEMA,
        "created": created.isoformat(timespec="seconds"),
        "collection": collection,
        "hosts": hosts,
        "runs": runs,
        "summary": summarise(runs),
        "classes": {name: summarise(own) for name, own in classes.items()},
        "by_host": {name: summarise(own) for name, own in grouped(runs, lambda run: run["host"]).items()},
        "checkpoints": list(checkpoints),
    }


def run_of(row: dict) -> dict:
    """One entry of `runs`: what a row says, seconds to the microsecond, in a steady order."""
    seconds = {part: row["seconds"].get(part) for part in PARTS if part in ALWAYS or row["seconds"].get(part) is not None}
    run = {key: row[key] for key in ROW_KEYS}
    run["kind"] = kind(row)
    run["seconds"] = {part: None if value is None else round(value, 6) for part, value in seconds.items()}
    run.update({key: row[key] for key in EXTRAS if row.get(key)})
    if not row["ok"]:
        run.update(reason=row.get("reason"), msg=row.get("msg"))
    return run


def write(directory: Path, report: dict) -> tuple[list[Path], str | None]:
    """Write the report's files, each beside its final name first. Returns them, and why the page is not among them, if so."""
    directory.mkdir(parents=True, exist_ok=True)
    contents: dict[str, str | bytes] = {
        "report.json": json.dumps(report, indent=1) + "\n",
        "report.csv": _formats.as_csv(report),
        "report.md": _formats.as_markdown(report),
        "report.prom": _formats.as_prometheus(report),
    }
    try:
        contents.update(_page.files(report))
        left_out = None
    except _page.NoPage as error:
        left_out = str(error)
    return [replace(directory / name, content) for name, content in contents.items()], left_out


def replace(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    return path
