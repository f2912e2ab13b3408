# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers out of a benchmark's rows: percentiles per method, and how many times faster than a cold start each is.

Touches nothing: rows in, summary out. _report.py puts the report together, _compare.py compares two.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterable, Sequence

BASELINE = "cold"
# Parts of a run in the order in which they happen. Those of ALWAYS are in every run of report.json, null where it has none.
ALWAYS = ("podman", "criu", "healthy", "first_token", "total")
PARTS = (
    *("engine_sleep", "lock", "cuda_checkpoint", "suspend", "unpack", "podman", "criu", "freezing", "frozen", "dump", "write", "verify"),
    *("forking", "restore", "cuda_restore", "unlock", "resume", "engine_wake", "healthy", "first_token", "total"),
)
# Parts that lie beside each other and add up to about the total; the others are within one of these.
STACKED = ("engine_sleep", "suspend", "unpack", "podman", "criu", "verify", "resume", "engine_wake", "healthy", "first_token")
RESAMPLES = 1000
CONFIDENCE = 0.95


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, interpolated between the two nearest (statistics' "inclusive")."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below, above = ordered[math.floor(position)], ordered[math.ceil(position)]
    return below + (above - below) * (position - math.floor(position))


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p95, min and max; all None where there is no value."""
    if not values:
        return dict.fromkeys(("p50", "p95", "min", "max"))
    return {"p50": quantile(values, 0.5), "p95": quantile(values, 0.95), "min": min(values), "max": max(values)}


def median(values: Sequence[float]) -> float | None:
    return quantile(values, 0.5) if values else None


def grouped(rows: Iterable[dict], key: Callable[[dict], str]) -> dict[str, list[dict]]:
    """The rows by `key`, in the order in which each first came."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def by_method(rows: Iterable[dict]) -> dict[str, list[dict]]:
    return grouped(rows, lambda row: row["method"])


def kind(row: dict) -> str:
    """What kind of method a row is of; a method that has only a name is of the kind of that name."""
    return row.get("kind") or row["method"]


def seconds(rows: Iterable[dict], part: str) -> list[float]:
    """One part of the iterations that succeeded, where they have it."""
    return [row["seconds"][part] for row in rows if row["ok"] and row["seconds"].get(part) is not None]


def baseline(methods: dict[str, list[dict]]) -> str | None:
    """The method to compare with: cold, or the first of its kind under another name."""
    return BASELINE if BASELINE in methods else next((name for name, rows in methods.items() if kind(rows[0]) == BASELINE), None)


@functools.lru_cache(maxsize=256)
def middles(count: int, seed: int) -> list[tuple[int, int]]:
    """The two middle positions of RESAMPLES bootstrap resamples of `count` sorted values; the same ones every time.

    Drawn at once instead of by sorting `count` draws: the k-th smallest of n uniform numbers has the distribution Beta(k, n - k + 1),
    and the next one is the smallest of the n - k that are left above it.
    """
    rng, low = random.Random(seed), (count + 1) // 2
    pairs = []
    for _resample in range(RESAMPLES):
        first = rng.betavariate(low, count - low + 1)
        second = first if count % 2 else first + (1 - first) * (1 - rng.random() ** (1 / (count - low)))
        pairs.append((min(int(first * count), count - 1), min(int(second * count), count - 1)))
    return pairs


def ratio_interval(above: Sequence[float], below: Sequence[float]) -> list[float] | None:
    """The bootstrap interval of the ratio of two medians; None where one of them has fewer than two values."""
    if min(len(above), len(below)) < 2:
        return None
    drawn = []
    for values, seed in ((above, 1), (below, 2)):
        ordered = sorted(values)
        drawn.append([(ordered[low] + ordered[high]) / 2 for low, high in middles(len(ordered), seed)])
    ratios = [over / under for over, under in zip(*drawn, strict=True)]
    return [quantile(ratios, (1 - CONFIDENCE) / 2), quantile(ratios, (1 + CONFIDENCE) / 2)]


def summarise(rows: Iterable[dict]) -> dict[str, dict]:
    """Per method: n iterations, how many of them failed, totals of the others, and cold's median over the method's."""
    methods = by_method(rows)
    cold = baseline(methods)
    cold_totals = seconds(methods[cold], "total") if cold else []
    return {method: entry(own, cold_totals, method == cold) for method, own in methods.items()}


def entry(rows: Sequence[dict], cold: Sequence[float], is_cold: bool) -> dict:
    totals = seconds(rows, "total")
    # A checkpoint brings no server up, so nothing is gained or lost over a cold start.
    compared = bool(cold and totals and kind(rows[0]) != "checkpoint")
    latencies = {
        when: [row["token_latency"][when] for row in rows if row["ok"] and (row.get("token_latency") or {}).get(when)]
        for when in ("before", "after")
    }
    return {
        "kind": kind(rows[0]),
        "n": len(rows),
        "failed": sum(not row["ok"] for row in rows),
        "total": spread(totals),
        "speedup_over_cold": quantile(cold, 0.5) / quantile(totals, 0.5) if compared else None,
        "speedup_interval": ratio_interval(cold, totals) if compared and not is_cold else None,
        "parts": {part: median(values) for part in PARTS if part != "total" and (values := seconds(rows, part))},
        "token_latency": {when: median(values) for when, values in latencies.items()},
    }
