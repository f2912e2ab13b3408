# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""report.html, one file that needs no network, and its charts as SVG: report.json through Vega-Lite and a template.

Touches nothing but reads the template, style and script in roles/benchmark/files/report. Needs vl-convert-python, which brings Vega-Lite
along and draws without a browser; its absence is NoPage. The charts' specifications are in _charts.py.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jinja2
from ansible.module_utils.basic import missing_required_lib
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils import _charts, _formats
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils._statistics import PARTS

try:
    import vl_convert
except ImportError:
    vl_convert = None

FILES = Path(__file__).parents[2] / "roles" / "benchmark" / "files" / "report"
CHART_WIDTH = 760  # of the SVG files
WHITE = {"background": "#ffffff", "padding": 12}


class NoPage(Exception):
    """The page cannot be made here; its text says why, and what to do."""


def files(report: dict) -> dict[str, str]:
    """report.html and charts/*.svg by name. Raises NoPage without the library."""
    if vl_convert is None:
        raise NoPage(f"report.html and its charts are left out. {missing_required_lib('vl-convert-python')}")
    charts = _charts.charts(report)
    drawn = {
        f"charts/{name}.svg": vl_convert.vegalite_to_svg({**spec, "width": CHART_WIDTH}, config={**_charts.theme("light"), **WHITE})
        for name, (_title, _note, spec) in charts.items()
    }
    return {"report.html": page(report, charts, bundled_library()), **drawn}


@functools.cache
def bundled_library() -> str:
    """Vega-Lite, Vega and their embedding as one JavaScript module."""
    return vl_convert.javascript_bundle()


def page(report: dict, charts: dict, bundle: str) -> str:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(FILES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(duration=_formats.duration, number=_formats.number, latency=latency)
    environment.undefined = jinja2.StrictUndefined
    data = {
        "charts": {name: {**spec, "width": "container"} for name, (_title, _note, spec) in charts.items()},
        "themes": {name: _charts.theme(name) for name in _charts.COLOURS},
        "runs": run_table(report),
    }
    return environment.get_template("report.html.j2").render(
        report=report,
        headline=headline(report),
        sentences=_formats.in_words(report["summary"]),
        baseline=_formats.baseline_of(report["summary"]),
        charts={name: (title, note) for name, (title, note, _spec) in charts.items()},
        environments=environments(report["hosts"]),
        failures=_formats.failures(report["runs"]),
        style=(FILES / "report.css").read_text(encoding="utf-8"),
        script=(FILES / "report.js").read_text(encoding="utf-8"),
        bundle=bundle.replace("</script", "<\\/script"),
        # No text of a host or a server may end the script element.
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )


def headline(report: dict) -> dict:
    """The best method against a cold start: how many times faster, how long each takes, and on how many of the hosts."""
    summary, cold = report["summary"], _formats.baseline_of(report["summary"])
    compared = {name: entry["speedup_over_cold"] for name, entry in summary.items() if name != cold and entry["speedup_over_cold"]}
    if not compared:
        return {"method": None, "hosts": len(report["hosts"])}
    best = max(compared, key=compared.__getitem__)
    ratios = [own[best]["speedup_over_cold"] for own in report["by_host"].values() if best in own and own[best]["speedup_over_cold"]]
    return {
        "method": best,
        "speedup": compared[best],
        "interval": summary[best]["speedup_interval"],
        "told_apart": not (interval := summary[best]["speedup_interval"]) or not interval[0] <= 1 <= interval[1],
        "p50": summary[best]["total"]["p50"],
        "cold": summary[cold]["total"]["p50"],
        "faster": sum(ratio > 1 for ratio in ratios),
        "hosts": len(report["by_host"]),
    }


def environments(hosts: dict[str, dict]) -> list[tuple[list[str], dict]]:
    """Hosts that are alike together: their names, and what they are."""
    alike: dict[str, tuple[list[str], dict]] = {}
    for name, facts in hosts.items():
        alike.setdefault(json.dumps(facts, sort_keys=True, default=str), ([], facts))[0].append(name)
    return list(alike.values())


def run_table(report: dict) -> dict:
    """All runs for the page's table: names of the columns, and a list per run; seconds to the millisecond."""
    parts = [part for part in PARTS if part != "total" and any(run["seconds"].get(part) is not None for run in report["runs"])]
    rows = [
        [
            *(run["host"], run["method"], run["iteration"], "ok" if run["ok"] else run.get("reason") or "failed"),
            *(None if run["seconds"].get(part) is None else round(run["seconds"][part], 3) for part in ("total", *parts)),
            (run.get("load") or [None])[0],
        ]
        for run in report["runs"]
    ]
    return {"columns": ["host", "method", "iteration", "outcome", "total", *parts, "load"], "rows": rows}


def latency(value: float | None) -> str:
    """Seconds per token as milliseconds; a dash for nothing."""
    return "-" if value is None else f"{value * 1000:.1f} ms"
