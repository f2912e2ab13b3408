# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of one host's benchmark as they come, on the controller, so that an interrupted one can go on: a file of JSON lines.

Touches DIRECTORY/runs/HOST.jsonl. Its first line says which plan it belongs to; a later one is a row or a checkpoint.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from urllib.parse import quote


class Journal:
    def __init__(self, directory: Path, host: str):
        self.path = directory / "runs" / f"{quote(host, safe='')}.jsonl"

    def begin(self, plan: str, resume: bool) -> tuple[list[dict], list[dict]]:
        """Start anew, or go on with what is there: its rows and checkpoints. Raises ValueError where it is of another plan."""
        lines = self.lines() if resume else []
        if lines and lines[0].get("plan") != plan:
            raise ValueError(f"{self.path} was begun with other methods or another server. Run without benchmark_resume to start anew.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in lines if "row" in line or "checkpoint" in line]
        partial = self.path.with_name(f".{self.path.name}")
        # Written again, since the last line may be half a line.
        partial.write_text("".join(f"{json.dumps(line)}\n" for line in [{"plan": plan}, *kept, {"began": time.time()}]), encoding="utf-8")
        partial.replace(self.path)
        checkpoints = {line["checkpoint"]["name"]: line["checkpoint"] for line in kept if "checkpoint" in line}  # the last of each
        return [line["row"] for line in kept if "row" in line], list(checkpoints.values())

    def lines(self) -> list[dict]:
        """All whole lines; an interrupted write leaves half of one."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        found = []
        for line in text.splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found

    def add(self, **entry: dict) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**entry, "at": time.time()}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def progress(self, planned: int) -> tuple[int, float | None]:
        """How many rows are there, and about how many seconds the rest takes, by the pace of this run; None before its second row."""
        lines = self.lines()
        began = max(at for at, line in enumerate(lines) if "began" in line)
        done = sum("row" in line for line in lines)
        times = [line["at"] for line in lines[began:] if "row" in line]
        pace = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None
        return done, None if pace is None else pace * (planned - done)
