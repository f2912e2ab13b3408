# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams of tokens: what the real server sent, in pieces of any size, and what is no such stream."""

from __future__ import annotations

import httpx
import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._stream import content_pieces
from ansible_collections.gpufleet.warmstart.tests.unit.plugins.module_utils.probe_server import CHAT, COMPLETIONS, body_of, captured


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("completions", COMPLETIONS),
        ("chat", CHAT),
        ("chat_reasoning", [" w263", " w31", "\ufffd", " w759"]),
        ("completions_u2028", [" \u2028x"] * 3),
        ("completions_no_tokens", []),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
def test_pieces_of_a_stream_that_arrives_in_pieces_of_any_size(name, pieces, size):
    body = body_of(captured(name))
    assert list(content_pieces(body[at : at + size] for at in range(0, len(body), size))) == pieces


def test_httpx_would_have_split_the_line_with_u2028():
    """Why _stream.py splits lines itself: without this difference the case above would prove nothing."""
    lines = list(httpx.Response(200, content=body_of(captured("completions_u2028")), headers={"content-type": "text/plain"}).iter_lines())
    assert not lines[0].endswith("}")


def test_a_cut_stream_gives_its_pieces_and_then_fails():
    pieces = content_pieces([body_of(captured("completions_cut"))])
    assert [next(pieces) for _piece in range(6)] == [" w722", " w401", " w104", " w148", " w32", " w156"]
    with pytest.raises(ValueError, match="ended before its last event"):
        next(pieces)


def test_comments_crlf_and_the_usage_event_are_no_text():
    body = body_of(captured("completions")).replace(
        b"data: [DONE]", b': ping\n\nevent: usage\ndata: {"choices":[],"usage":{}}\n\ndata: [DONE]'
    )
    assert list(content_pieces([body.replace(b"\n", b"\r\n")])) == COMPLETIONS


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'data: {"error":{"code":500,"message":"out of memory"}}', "out of memory"),
        (b'data: {"choices":[],"error":{"code":500,"message":"out of memory"}}', "out of memory"),
        (b'error: {"code":500,"message":"out of memory"}', "out of memory"),
        (b'data: {"choices":[{"text":" a"', "not JSON"),
        (b'data: ["a"]', "not part of a completion"),
        (b'data: {"choices":["a"]}', "not part of a completion"),
        (b'data: {"choices":[{"text":["a"]}]}', "not part of a completion"),
        (b"<html>", "not an event: <html>"),
        (b"data: " + b"x" * (2 << 20), "longer than"),
    ],
)
def test_what_is_no_event_of_a_completion_is_named(line, says):
    first, rest = body_of(captured("completions")).split(b"\n\n", 1)
    pieces = content_pieces([first + b"\n\n" + line, b"\n\n" + rest])
    assert next(pieces) == " w90"
    with pytest.raises(ValueError, match=says):
        list(pieces)
