# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers out of a benchmark's rows: percentiles per method, and how many times faster than a cold start each is.

Touches nothing: rows in, summary out. _report.py writes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

BASELINE = "cold"
PARTS = ("podman", "criu", "healthy", "first_token", "total")


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


def by_method(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """The rows of each method, methods in the order in which they first ran."""
    methods: dict[str, list[dict]] = {}
    for row in rows:
        methods.setdefault(row["method"], []).append(row)
    return methods


def seconds(rows: Sequence[dict], part: str) -> list[float]:
    """One part of the iterations that succeeded, where they have it."""
    return [row["seconds"][part] for row in rows if row["ok"] and row["seconds"].get(part) is not None]


def summarise(rows: Sequence[dict]) -> dict[str, dict]:
    """Per method: n iterations, how many of them failed, total of the others, and cold's median over the method's."""
    methods = by_method(rows)
    totals = {method: spread(seconds(own, "total")) for method, own in methods.items()}
    cold = totals.get(BASELINE, {}).get("p50")
    return {
        method: {
            "n": len(own),
            "failed": sum(not row["ok"] for row in own),
            "total": totals[method],
            "speedup_over_cold": cold / totals[method]["p50"] if cold and totals[method]["p50"] else None,
        }
        for method, own in methods.items()
    }
