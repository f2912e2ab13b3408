# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""report.html in headless Chromium: a real benchmark's rows, and a fleet of 500 hosts that repeats them. Keeps screenshots in build/."""

from __future__ import annotations

import datetime
import json
import random
import re

import pytest
from ansible_collections.gpufleet.warmstart.plugins.plugin_utils import _report
from browser import browser
from labtool import ROOT

CAPTURED = json.loads((ROOT / "tests" / "unit" / "captures" / "benchmark_rows.json").read_text())
DRAWN = "document.documentElement?.dataset.drawn !== undefined"
OPEN = 3.0  # seconds


def cells(column: int) -> str:
    return f"[...document.querySelectorAll('#table tbody tr')].map((row) => row.cells[{column}].textContent)"


def fleet(hosts: int, iterations: int) -> tuple[list[dict], dict]:
    """The captured rows as those of many hosts, each with a speed of its own, under five methods."""
    rng, rows, facts = random.Random(1), [], {}
    real = {row["method"]: row for row in CAPTURED["rows"] if row["ok"]}
    methods = {**real, "restore_archive_zstd": real["restore_archive"], "restore_in_place_cold": real["restore_in_place"]}
    for number in range(hosts):
        name, speed = f"gpu-{number + 1:03d}", rng.lognormvariate(0, 0.2)
        facts[name] = {**CAPTURED["hosts"]["lab-1"], "class": ("a", "b")[number % 2]}
        for iteration in range(1, iterations + 1):
            for method, row in methods.items():
                factor, ok = speed * rng.lognormvariate(0, 0.1), rng.random() > 0.01
                seconds = {part: value * factor for part, value in row["seconds"].items()}
                about = {"host": name, "method": method, "kind": row["method"], "iteration": iteration, "ok": ok}
                rows.append(
                    {**about, "seconds": seconds, "load": [round(2 * rng.random(), 2), 1.0, 1.0], "reason": None if ok else "timed_out"}
                )
    return rows, facts


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Folders of two reports: `lab`, as measured, and `fleet`."""
    folder, now = tmp_path_factory.mktemp("pages"), datetime.datetime.now(datetime.timezone.utc)
    parts = [{"host": "lab-1", "name": "archive", "size": 92611584, "parts": {"pages": 90112000, "criu": 18350, "root_diff": 1536}}]
    for name, (rows, hosts) in {"lab": (CAPTURED["rows"], CAPTURED["hosts"]), "fleet": fleet(500, 10)}.items():
        report = _report.build(rows, hosts, "gpufleet.warmstart 0.1.0", now, parts)
        assert _report.write(folder / name, report)[1] is None
    return folder


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.fixture(autouse=True)
def _nothing_wrong(chromium):
    """No word on the console, and no address but the page's own."""
    chromium.problems.clear()
    chromium.requested.clear()
    yield
    assert chromium.problems == []
    assert {address.partition(":")[0] for address in chromium.requested} <= {"file", "data", "blob"}


@pytest.mark.parametrize(
    ("look", "width", "height", "dark"), [("light", 1280, 900, False), ("dark", 1280, 900, True), ("phone", 390, 844, False)]
)
@pytest.mark.parametrize("name", ["lab", "fleet"])
def test_looks(chromium, pages, name, look, width, height, dark):
    chromium.look(width, height, dark)
    chromium.open(pages / name / "report.html", DRAWN)
    shown = ROOT / "build" / "report-page" / f"{name}-{look}.png"
    shown.parent.mkdir(parents=True, exist_ok=True)
    chromium.screenshot(shown)
    assert chromium.evaluate("document.documentElement.dataset.drawn") == ("dark" if dark else "light")
    assert chromium.evaluate("document.documentElement.scrollWidth") == width, "it must not scroll sideways"
    drawn = chromium.evaluate(
        "[...document.querySelectorAll('[data-chart]')].map((it) => [it.dataset.chart, it.querySelector('svg, canvas') !== null])"
    )
    wanted = {"time", "speedup", "distribution", "checkpoints", "drift"} | ({"fleet"} if name == "fleet" else set())
    assert dict(drawn) == dict.fromkeys(wanted, True)
    assert {path.stem for path in (pages / name / "charts").iterdir()} == wanted


def test_headline_says_no_more_than_is_known(chromium, pages):
    chromium.look(1280, 900)
    chromium.open(pages / "fleet" / "report.html", DRAWN)
    lead = " ".join(chromium.evaluate("document.querySelector('.lead').textContent").split())
    assert chromium.evaluate("document.querySelector('h1').textContent").endswith("× faster to the first token")
    assert re.search(r"It is faster on \d+ of 500 hosts\.", lead)
    chromium.open(pages / "lab" / "report.html", DRAWN)
    assert chromium.evaluate("document.querySelector('h1').textContent") == "About as fast as a cold start"


def test_failures_and_environment(chromium, pages):
    chromium.look(1280, 900)
    chromium.open(pages / "lab" / "report.html", DRAWN)
    assert chromium.evaluate("document.querySelector('#failed tbody tr').cells[3].textContent") == "server_exited"
    assert "1.28" in chromium.evaluate("document.querySelector('#environment').textContent")


def test_the_button_changes_the_theme_and_keeps_the_charts(chromium, pages):
    chromium.look(1280, 900)
    chromium.open(pages / "lab" / "report.html", DRAWN)
    before = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
    chromium.evaluate("document.getElementById('theme').click()")
    chromium.wait("document.documentElement.dataset.drawn === 'dark'")
    assert chromium.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert chromium.evaluate("document.querySelectorAll('[data-chart] svg').length") == 5


def test_table_sorts_and_filters(chromium, pages):
    chromium.look(1280, 900)
    chromium.open(pages / "fleet" / "report.html", DRAWN)
    columns = chromium.evaluate("[...document.querySelectorAll('#table th')].map((head) => head.textContent)")
    total = columns.index("total")
    assert chromium.evaluate("document.getElementById('count').textContent") == "25,000 of 25,000 runs"
    assert chromium.evaluate("document.querySelectorAll('#table tbody tr').length") == 100
    for _click, order in enumerate((False, True)):
        chromium.evaluate(f"document.querySelectorAll('#table th button')[{total}].click()")
        shown = [float(text) for text in chromium.evaluate(cells(total))]
        assert shown == sorted(shown, reverse=order)
        assert chromium.evaluate(f"document.querySelectorAll('#table th')[{total}].ariaSort") == ("descending" if order else "ascending")

    def choose(field: str, value: str) -> int:
        chromium.evaluate(f"{{const it = document.getElementById('{field}'); it.value = '{value}'; it.dispatchEvent(new Event('input'))}}")
        return int(chromium.evaluate("document.getElementById('count').textContent").split()[0].replace(",", ""))

    assert choose("text", "gpu-007") == 50
    assert set(chromium.evaluate(cells(0))) == {"gpu-007"}
    assert choose("method", "cold") == 10
    assert choose("text", "") == 5000
    failed = choose("outcome", "failed")
    assert 0 < failed < 200
    assert set(chromium.evaluate(cells(3))) == {"timed_out"}
    assert choose("text", "no such host") == 0
    choose("text", "")
    choose("outcome", "ok")
    chromium.evaluate("document.getElementById('more').click()")
    assert chromium.evaluate("document.querySelectorAll('#table tbody tr').length") == 600


def test_a_large_fleet_opens_quickly(chromium, pages):
    chromium.look(1280, 900)
    taken = min(chromium.open(pages / "fleet" / "report.html", DRAWN) for _attempt in range(3))
    print(f"500 hosts, 5 methods, 10 iterations: open and drawn in {taken:.2f} s")
    assert taken < OPEN
