# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Conditions on a report's summary, such as `restore_archive.p95 > 5`, that make a CI job fail.

METHOD.FIELD OPERATOR NUMBER and nothing else; `*` stands for every method. Touches nothing; used by action benchmark_report.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence

OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
TOTALS = ("p50", "p95", "min", "max")  # seconds
FIELDS = (*TOTALS, "n", "failed", "speedup")
SHAPE = re.compile(r"\s*(?P<method>\*|[\w+-]+)\.(?P<field>\w+)\s*(?P<operator><=|>=|==|<|>)\s*(?P<number>\d+(?:\.\d+)?)\s*")


def parse(condition: str) -> tuple[str, str, str, float]:
    """Method, field, operator and number. Raises ValueError that says what is wrong with the condition."""
    match = SHAPE.fullmatch(str(condition))
    if not match:
        example = "restore_archive.p95 > 5"
        raise ValueError(
            f"fail_if {condition!r} is not METHOD.FIELD OPERATOR NUMBER, as in {example!r} (operators: {', '.join(OPERATORS)})."
        )
    if match["field"] not in FIELDS:
        raise ValueError(f"fail_if {condition!r}: there is no field {match['field']!r}; there are {', '.join(FIELDS)}.")
    return match["method"], match["field"], match["operator"], float(match["number"])


def check(conditions: Sequence[str], methods: Sequence[str]) -> None:
    """Raise ValueError for the first condition that cannot be read or names none of these methods."""
    for condition in conditions:
        method = parse(condition)[0]
        if method != "*" and method not in methods:
            raise ValueError(f"fail_if {condition!r}: there is no method {method!r}; there are {', '.join(methods)}.")


def met(conditions: Sequence[str], summary: dict[str, dict]) -> list[str]:
    """One sentence for each condition and method where it is true, or where there is no number to tell."""
    check(conditions, list(summary))
    sentences = []
    for condition in conditions:
        method, field, sign, number = parse(condition)
        for name in summary if method == "*" else [method]:
            value = value_of(summary[name], field)
            if value is None and not (method == "*" and field == "speedup"):  # a checkpoint has none, and need not
                sentences.append(
                    f"{condition}: {name} has no {field}, since {summary[name]['failed']} of {summary[name]['n']} runs failed."
                )
            elif value is not None and OPERATORS[sign](value, number):
                sentences.append(f"{condition}: {name}.{field} is {value:.4g}.")
    return sentences


def value_of(entry: dict, field: str) -> float | None:
    if field in TOTALS:
        return entry["total"][field]
    return entry["speedup_over_cold" if field == "speedup" else field]
