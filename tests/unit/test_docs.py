"""Pages that are made from code are as the code would make them now."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_reasons_page_is_made_from_the_table():
    page = runpy.run_path(str(DOCS / "reasons.py"))["page"]()
    assert (DOCS / "reasons.md").read_text() == page, "run: PYTHONPATH=.collections python docs/reasons.py >docs/reasons.md"
