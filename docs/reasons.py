#!/usr/bin/env python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print docs/reasons.md from the table in module_utils/_reason.py; tests/unit keeps the two the same."""

from __future__ import annotations

from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import REASONS

HEAD = """# Reasons

Every failure and refusal carries one of these codes as `reason`, and the fix as `fix`. Codes are stable; sentences may change.

| reason | what it means | what to do |
|---|---|---|
"""


def page() -> str:
    return HEAD + "".join(f"| `{reason.code}` | {reason.message} | {reason.fix} |\n" for reason in REASONS.values())


if __name__ == "__main__":
    print(page(), end="")
