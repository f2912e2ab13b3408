# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report's charts as Vega-Lite specifications, and their colours in light and dark, out of report.json.

Touches nothing, and needs no library: _page.py draws them. Small numbers are worked out here, so that the page stays small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._formats import baseline_of, duration, number, size
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._statistics import STACKED, by_method, median, quantile, seconds

FONT = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MOST_DOTS = 200  # per method; above, the dots are as many quantiles
MOST_NAMES = 40  # hosts whose names fit below the heat map
PART_COLOURS = {
    **{"engine_sleep": "#a3adbd", "suspend": "#71809a", "unpack": "#a58bf0", "podman": "#7cb5f5", "criu": "#2f6fe0", "verify": "#2aa7a0"},
    **{"resume": "#f0b429", "engine_wake": "#ee8434", "healthy": "#4fbf8b", "first_token": "#e2558f"},
}
SIZE_COLOURS = {
    **{"pages": "#2f6fe0", "gpu_pages": "#4fbf8b", "shared_memory": "#a58bf0", "root_diff": "#f0b429", "volumes": "#ee8434"},
    **{"criu": "#71809a", "metadata": "#a3adbd"},
}
METHOD_COLOURS = ("#7d8799", "#2f6fe0", "#ee8434", "#2aa77a", "#a067e8", "#e2558f", "#c9a227", "#3fa7d6", "#b5573c", "#5c8a3a")
COLOURS = {
    "light": {"text": "#1c2430", "muted": "#5b6675", "grid": "#e6e9ee", "page": "#ffffff", "even": "#f1f3f6"},
    "dark": {"text": "#e8ecf2", "muted": "#9aa6b6", "grid": "#2b3340", "page": "#151a22", "even": "#2b3340"},
}
SECONDS = {"labelExpr": "format(datum.value, '~s') + 's'", "title": None}


def theme(name: str) -> dict:
    """Vega-Lite's configuration for `light` or `dark`."""
    colours = COLOURS[name]
    return {
        "background": None,
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            **{"domain": False, "ticks": False, "grid": False, "labelColor": colours["muted"], "titleColor": colours["muted"]},
            **{"gridColor": colours["grid"], "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelPadding": 8},
        },
        "axisX": {"grid": True, "labelFlush": False},
        "axisY": {"labelColor": colours["text"], "labelLimit": 170},
        "legend": {
            **{
                "labelColor": colours["text"],
                "titleColor": colours["muted"],
                "labelFontSize": 12,
                "symbolType": "circle",
                "symbolOpacity": 1,
                "orient": "top",
            },
            **{"title": None, "columns": 4, "symbolSize": 90, "titleFontWeight": "normal", "gradientLength": 180, "gradientThickness": 10},
        },
        "text": {"color": colours["text"], "fontSize": 12},
        "rule": {"color": colours["muted"]},
        "bar": {"cornerRadius": 1},
    }


def charts(report: dict) -> dict[str, tuple[str, str, dict]]:
    """Name of each chart that has something to show: its title, one line on how to read it, and the specification."""
    summary, cold = report["summary"], baseline_of(report["summary"])
    warm = {name: entry for name, entry in summary.items() if entry["kind"] != "cold"}
    slowest = max((entry["total"]["p50"] or 0 for entry in warm.values()), default=0)
    # Beside a cold start that is much longer, the parts of the others cannot be seen.
    hidden = bool(cold and slowest and (summary[cold]["total"]["p50"] or 0) > 3 * slowest)
    dots = "a dot is a run" if len(report["runs"]) <= MOST_DOTS else f"up to {MOST_DOTS} dots, at even quantiles"
    made = {
        "time": ("Where the time goes", "Median of each part; the number is the median of the whole.", time_chart(summary)),
        "warm": ("The same without cold starts", "Median of each part.", time_chart(warm) if hidden else None),
        "speedup": (
            *("Faster than a cold start", "Ratio of the medians, with its 95% bootstrap interval. Left of the line: slower."),
            speedup_chart(report),
        ),
        "distribution": (
            *("Every run", f"Seconds to the first token: {dots}, the bar is the middle half, the line the median."),
            distribution_chart(report),
        ),
        "fleet": (
            *("The fleet", "Each column is a host: its median against the fleet's for that method. Empty: no run succeeded."),
            fleet_chart(report),
        ),
        "drift": ("Over time", "Median of all hosts, by iteration.", drift_chart(report)),
        "checkpoints": ("What a checkpoint holds", "Median over the hosts, by part, uncompressed.", checkpoint_chart(report)),
    }
    return {name: chart for name, chart in made.items() if chart[2]}


def scale_of(values: Sequence[float], widest: float) -> tuple[dict, dict]:
    """A scale for these values and its axis' ticks: logarithmic, at 1, 2 and 5, where they span more than `widest` times."""
    low, high = min(values), max(values)
    if low <= 0 or high / low <= widest:
        return {"type": "linear", "zero": False, "nice": True}, {"tickCount": 6}
    low, high = low * 0.8, high * 1.3
    steps = (1, 2, 5) if high / low < 120 else (1,)
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [tick for ten in tens for step in steps if low <= (tick := step * 10.0**ten) <= high]
    return {"type": "log", "domain": [low, high], "nice": False}, {"values": ticks}


def layered(values: Sequence[dict], layers: Sequence[dict], lines: int, line: int, **more) -> dict:
    return {"data": {"values": list(values)}, "height": max(lines, 1) * line, "layer": list(layers), **more}


def time_chart(summary: dict[str, dict]) -> dict | None:
    """Stacked bars: podman's own part without CRIU's, which is drawn beside it."""
    bars, ends = [], []
    for method, entry in summary.items():
        parts = dict(entry["parts"])
        if "podman" in parts:
            parts["podman"] = max(parts["podman"] - parts.get("criu", 0.0), 0.0)
        at = 0.0
        for order, part in enumerate(STACKED):
            if parts.get(part, 0) > 0:
                bars.append(
                    {
                        "name": method,
                        "part": part,
                        "from": at,
                        "to": (at := at + parts[part]),
                        "order": order,
                        "is": duration(parts[part]),
                    }
                )
        if entry["total"]["p50"] is not None:
            ends.append({"name": method, "to": max(at, entry["total"]["p50"]), "is": duration(entry["total"]["p50"])})
    if not bars:
        return None
    return stacked(bars, ends, PART_COLOURS, {**SECONDS, "tickCount": 6}, "median")


def stacked(bars: list[dict], ends: list[dict], colours: dict[str, str], axis: dict, what: str) -> dict:
    """One bar for each of `ends`, in parts, with the number at its end."""
    used = [part for part in colours if any(drawn["part"] == part for drawn in bars)]
    y = {
        "field": "name",
        "type": "nominal",
        "sort": list(dict.fromkeys(drawn["name"] for drawn in bars)),
        "title": None,
        "axis": {"grid": False},
    }
    # From 0, with room for that number.
    scale = {"domain": [0, max(end["to"] for end in ends) * 1.28], "nice": False}
    parts = {
        "x": {"field": "from", "type": "quantitative", "scale": scale, "axis": axis},
        "x2": {"field": "to"},
        "y": y,
        "color": {"field": "part", "type": "nominal", "scale": {"domain": used, "range": [colours[part] for part in used]}},
        "tooltip": [{"field": "name"}, {"field": "part"}, {"field": "is", "title": what}],
    }
    layers = [
        {"mark": {"type": "bar", "height": 22}, "encoding": parts},
        {
            "data": {"values": ends},
            "mark": {"type": "text", "align": "left", "dx": 8, "fontWeight": 600},
            "encoding": {"x": {"field": "to", "type": "quantitative"}, "y": y, "text": {"field": "is"}},
        },
    ]
    return layered(bars, layers, len(ends), 42)


def speedup_chart(report: dict) -> dict | None:
    """A point and its interval for each method, over all hosts and, where there are several, for each class."""
    scopes = {"all hosts": report["summary"], **(report["classes"] if len(report["classes"]) > 1 else {})}
    cold, points = baseline_of(report["summary"]), []
    for scope, summary in scopes.items():
        for method, entry in summary.items():
            if method == cold or not entry["speedup_over_cold"]:
                continue
            low, high = entry["speedup_interval"] or [entry["speedup_over_cold"]] * 2
            known = {"method": method, "scope": scope, "x": entry["speedup_over_cold"], "low": low, "high": high}
            points.append({**known, "is": f"{number(known['x'])}×", "interval": f"{number(low)} to {number(high)}"})
    if not points:
        return None
    methods = list(dict.fromkeys(point["method"] for point in points))
    y = {"field": "method", "type": "nominal", "sort": methods, "title": None}
    offset = {"yOffset": {"field": "scope", "type": "nominal", "sort": list(scopes)}} if len(scopes) > 1 else {}
    colour = {
        "field": "scope",
        "type": "nominal",
        "sort": list(scopes),
        "scale": {"range": METHOD_COLOURS[1:]},
        **({} if offset else {"legend": None}),
    }
    tooltip = [{"field": "method"}, {"field": "scope"}, {"field": "is", "title": "faster"}, {"field": "interval", "title": "95% interval"}]
    scale, ticks = scale_of([point[end] for point in points for end in ("low", "high")] + [1.0], 6)
    scale["padding"] = 30
    axis = {"labelExpr": "format(datum.value, '~g') + '×'", "title": None, **ticks}
    x = {"field": "x", "type": "quantitative", "scale": scale, "axis": axis}
    shared = {"y": y, "color": colour, "tooltip": tooltip, **offset}
    layers = [
        {
            "data": {"values": [{"one": 1}]},
            "mark": {"type": "rule", "strokeDash": [4, 4]},
            "encoding": {"x": {"field": "one", "type": "quantitative"}},
        },
        {
            "mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.45},
            "encoding": {**shared, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
        },
        {"mark": {"type": "point", "filled": True, "size": 110, "opacity": 1}, "encoding": {**shared, "x": x}},
        {
            "mark": {"type": "text", "align": "left", "dx": 11, "fontWeight": 600},
            "encoding": {"y": y, **offset, "x": {**x, "field": "high"}, "text": {"field": "is"}},
        },
    ]
    return layered(points, layers, len(methods) * len(scopes), 46 if len(scopes) == 1 else 26)


def distribution_chart(report: dict) -> dict | None:
    dots, boxes = [], []
    methods = [method for method, rows in by_method(report["runs"]).items() if seconds(rows, "total")]
    for method, rows in by_method(report["runs"]).items():
        values = sorted(seconds(rows, "total"))
        if not values:
            continue
        shown = values if len(values) <= MOST_DOTS else [quantile(values, (at + 0.5) / MOST_DOTS) for at in range(MOST_DOTS)]
        # The golden ratio spreads neighbours apart.
        dots += [{"method": method, "x": round(value, 4), "at": round(at * 0.618 % 1, 3)} for at, value in enumerate(shown)]
        low, middle, high = (quantile(values, share) for share in (0.25, 0.5, 0.75))
        boxes.append(
            {"method": method, "low": low, "middle": middle, "high": high, "is": duration(middle), "p95": duration(quantile(values, 0.95))}
        )
    if not dots:
        return None
    scale, ticks = scale_of([dot["x"] for dot in dots], 12)
    x = {"field": "x", "type": "quantitative", "scale": scale, "axis": {**SECONDS, **ticks}}
    y = {"field": "method", "type": "nominal", "sort": methods, "title": None}
    colour = {"field": "method", "type": "nominal", "sort": methods, "scale": {"range": list(METHOD_COLOURS)}, "legend": None}
    offset = {"field": "at", "type": "quantitative", "scale": {"domain": [-0.6, 1.6]}}
    box = {"data": {"values": boxes}}
    tooltip = [{"field": "method"}, {"field": "is", "title": "median"}, {"field": "p95"}]
    layers = [
        {
            **box,
            "mark": {"type": "bar", "height": 30, "opacity": 0.16, "cornerRadius": 3},
            "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": colour, "tooltip": tooltip},
        },
        {
            "mark": {"type": "circle", "size": 34, "opacity": 0.55},
            "encoding": {
                "y": y,
                "yOffset": offset,
                "x": x,
                "color": colour,
                "tooltip": [{"field": "method"}, {"field": "x", "title": "seconds"}],
            },
        },
        {
            **box,
            "mark": {"type": "tick", "height": 34, "thickness": 3},
            "encoding": {"y": y, "x": {**x, "field": "middle"}, "color": colour, "tooltip": tooltip},
        },
    ]
    return layered(dots, layers, len(methods), 54)


def fleet_chart(report: dict) -> dict | None:
    """Hosts from left to right, by class and then from fast to slow; a cell's colour is on a scale around the fleet's median."""
    if len(report["by_host"]) < 2:
        return None
    cells, mean = [], {}
    for host, summary in report["by_host"].items():
        known, ratios = report["hosts"].get(host, {}).get("class", ""), []
        for method, entry in summary.items():
            own, fleet = entry["total"]["p50"], report["summary"][method]["total"]["p50"]
            if own and fleet:
                ratios.append(math.log(own / fleet))
                about = {"host": host, "class": known, "method": method, "ratio": round(own / fleet, 3), "is": duration(own)}
                cells.append({**about, "failed": f"{entry['failed']} of {entry['n']}"})
        mean[host] = (known, sum(ratios) / max(len(ratios), 1))
    if not cells:
        return None
    hosts = sorted(mean, key=mean.__getitem__)
    furthest = max(max(abs(math.log2(cell["ratio"])) for cell in cells), 0.1)
    reach = 2 ** min(furthest, 1.5)
    few = len(hosts) <= MOST_NAMES
    x = {"field": "host", "type": "nominal", "sort": hosts, "title": None if few else f"{len(hosts)} hosts, the fastest first"}
    x["axis"] = {"labels": few, "labelAngle": -45 if len(hosts) > 6 else 0, "grid": False, "labelLimit": 110}
    x["scale"] = {"paddingInner": 0.06 if few else 0, "paddingOuter": 0}
    scale = {
        "type": "log",
        "domain": [1 / reach, 1, reach],
        "range": ["#1a9a7a", "#e9e3d3", "#d6483e"],
        "clamp": True,
        "interpolate": "lab",
    }
    legend = {
        "labelExpr": "format(datum.value, '.2~f') + '×'",
        "values": [round(1 / reach, 2), 1, round(reach, 2)],
        "title": "of the fleet's median",
    }
    fields = ("host", "class", "method", "is", "ratio", "failed")
    tooltip = [
        {"field": field, **({"title": "median"} if field == "is" else {})} for field in fields if field != "class" or report["classes"]
    ]
    methods = list(report["summary"])
    return {
        "data": {"values": cells},
        "height": len(methods) * 38,
        "mark": {"type": "rect"},
        "encoding": {
            "x": x,
            "y": {"field": "method", "type": "nominal", "sort": methods, "title": None, "scale": {"paddingInner": 0.08}},
            "color": {
                "field": "ratio",
                "type": "quantitative",
                "scale": scale,
                "legend": {**legend, "orient": "top", "symbolType": "square"},
            },
            "tooltip": tooltip,
        },
    }


def drift_chart(report: dict) -> dict | None:
    points = []
    for method, rows in by_method(report["runs"]).items():
        by_iteration: dict[int, list[dict]] = {}
        for row in rows:
            by_iteration.setdefault(row["iteration"], []).append(row)
        for iteration, own in sorted(by_iteration.items()):
            if (middle := median(seconds(own, "total"))) is not None:
                points.append({"method": method, "iteration": iteration, "seconds": round(middle, 4), "is": duration(middle)})
    iterations = {point["iteration"] for point in points}
    if len(iterations) < 3:
        return None
    methods = list(dict.fromkeys(point["method"] for point in points))
    scale, ticks = scale_of([point["seconds"] for point in points], 12)
    tooltip = [{"field": "method"}, {"field": "iteration"}, {"field": "is", "title": "median"}]
    return {
        "data": {"values": points},
        "height": 220,
        "mark": {"type": "line", "point": {"size": 45, "filled": True}, "strokeWidth": 2},
        "encoding": {
            "x": {
                "field": "iteration",
                "type": "quantitative",
                "axis": {"format": "d", "grid": False, **({"values": sorted(iterations)} if len(iterations) < 16 else {})},
                "scale": {"nice": False, "padding": 12},
            },
            "y": {"field": "seconds", "type": "quantitative", "scale": scale, "title": None, "axis": {**SECONDS, **ticks, "grid": True}},
            "color": {
                "field": "method",
                "type": "nominal",
                "sort": methods,
                "scale": {"range": list(METHOD_COLOURS)},
            },
            "tooltip": tooltip,
        },
    }


def checkpoint_chart(report: dict) -> dict | None:
    names: dict[str, list[dict]] = {}
    for taken in report["checkpoints"]:
        names.setdefault(taken["name"], []).append(taken["parts"])
    for run in report["runs"]:
        if run["ok"] and run.get("bytes"):
            names.setdefault(run["method"], []).append(run["bytes"])
    bars, ends = [], []
    for name, taken in names.items():
        at = 0.0
        for part in SIZE_COLOURS:
            middle = median([parts.get(part, 0) for parts in taken])
            if middle:
                bars.append({"name": name, "part": part, "from": at, "to": (at := at + middle), "is": size(round(middle))})
        ends.append({"name": name, "to": at, "is": size(round(at))})
    if not bars:
        return None
    gigabytes = "datum.value ? replace(format(datum.value, '~s'), /([kMGT]?)$/, ' $1B') : '0'"
    return stacked(bars, ends, SIZE_COLOURS, {"labelExpr": gigabytes, "title": None, "tickCount": 5}, "size")
