# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the events of a streamed /v1/completions or /v1/chat/completions answer.

Touches nothing: bytes in, text out; ValueError for a stream that is none. _probe.py sends the request and keeps the clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

LONGEST_LINE = 1 << 20


def content_pieces(chunks: Iterable[bytes]) -> Iterator[str]:
    """The pieces of generated text in a stream of events, each as soon as its line is complete; none of them is empty."""
    finished = False
    for line in _lines(chunks):
        name, _colon, value = line.partition(":")
        if name in ("", "event", "id", "retry"):  # a comment (": ping") has no name
            continue
        if name != "data":
            raise ValueError(f"not an event: {line}")
        if value.strip() == "[DONE]":
            return
        piece, last = _event(value)
        finished = finished or last
        if piece:
            yield piece
    if not finished:
        raise ValueError("the stream ended before its last event")


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines of a body that arrives in pieces of any size.

    httpx's iter_lines is of no use here: it also splits at U+2028, which JSON may hold as it is and models do write.
    """
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r").decode("utf-8", errors="replace")
        if len(rest) > LONGEST_LINE:
            raise ValueError(f"a line is longer than {LONGEST_LINE} bytes")
    if rest:
        yield rest.decode("utf-8", errors="replace")


def _event(value: str) -> tuple[str, bool]:
    """The text in one event, which may be none, and whether it says that the answer is finished."""
    try:
        event = json.loads(value)
    except ValueError:
        raise ValueError(f"an event is not JSON: {value}") from None
    choices = event.get("choices") if isinstance(event, dict) else None
    if not isinstance(choices, list) or event.get("error"):
        raise ValueError(f"an event is not part of a completion: {value}")
    if not choices:  # vLLM's last event, with the usage
        return "", False
    try:
        part = choices[0].get("delta", choices[0])
        # What a reasoning model thinks is generated text too: its user waits for that first token.
        piece = part.get("text") or part.get("content") or part.get("reasoning_content") or part.get("reasoning") or ""
        return piece + "", bool(choices[0].get("finish_reason"))
    except (AttributeError, TypeError):
        raise ValueError(f"an event is not part of a completion: {value}") from None
