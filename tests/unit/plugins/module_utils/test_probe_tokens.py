# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe's first token, warm-up requests and model, against real sockets on 127.0.0.1."""

from __future__ import annotations

import json
import time

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._probe import PROBE_OPTIONS, Probe
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError
from ansible_collections.gpufleet.warmstart.tests.unit.plugins.module_utils.probe_server import (
    CHAT,
    COMPLETIONS,
    answer,
    body_of,
    captured,
    fails,
)


def test_first_token_of_completions(serve):
    server, probe = serve({"/v1/completions": captured("completions")}, first_token=True, warmup_requests=2, headers={"X-Key": "secret"})
    result = probe.run()
    assert result["tokens"] == COMPLETIONS
    assert result["text"] == "".join(COMPLETIONS)
    assert result["model"] == "tiny"
    assert len(result["warmup"]) == 2
    paths = [path for path, _headers, _body in server.asked]
    assert paths == ["/health", "/v1/models"] + ["/v1/completions"] * 3
    assert all(headers["x-key"] == "secret" for _path, headers, _body in server.asked)
    assert json.loads(server.asked[-1][2]) == {
        "model": "tiny",
        "prompt": PROBE_OPTIONS["prompt"]["default"],
        "max_tokens": 16,
        "temperature": 0,
        "stream": True,
    }


def test_first_token_of_chat_is_its_first_content(serve):
    head, chunks = captured("chat").split(b"\r\n\r\n", 1)
    pieces = body_of(captured("chat")).split(b"\n\n")
    assert b'"content":null' in pieces[0]
    assert b" w263" in pieces[1]
    head = head.replace(b"Transfer-Encoding: chunked\r\n", b"") + b"\r\n\r\n"
    slow = [head, 0.1, pieces[0] + b"\n\n", 0.2, b"\n\n".join(pieces[1:])]
    server, probe = serve({"/v1/chat/completions": slow}, api="chat", prompt="hi")
    result = probe.first_token()
    assert result["tokens"] == CHAT
    assert 0.3 <= result["first_token"] < 0.4  # 0.1 is the first byte after the head, 0.2 later comes the first text
    assert json.loads(server.asked[-1][2])["messages"] == [{"role": "user", "content": "hi"}]
    assert chunks


def test_first_token_does_not_wait_for_the_rest(serve):
    raw = captured("completions")
    at = raw.index(b"\n\n") + 2
    _server, probe = serve({"/v1/completions": [raw[:at], 0.5, raw[at:]]}, first_token=True)
    assert probe.run()["first_token"] < 0.2


def test_a_stream_without_text_is_no_tokens(serve):
    _server, probe = serve({"/v1/completions": captured("completions_no_tokens")}, first_token=True)
    with fails("no_tokens", "/v1/completions") as failed:
        probe.run()
    assert failed.error.facts["probe"]["model"] == "tiny"
    assert failed.error.facts["probe"]["healthy_after"] < 5


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (captured("completions_cut"), "after 6 tokens"),
        (captured("completions_not_streamed"), "not an event"),
        (b"", "after 0 tokens"),
        (captured("health_ok"), '{"status":"ok"}'),
    ],
)
def test_malformed_stream(serve, stream, says):
    _server, probe = serve({"/v1/completions": stream}, first_token=True)
    with fails("malformed_stream", "/v1/completions", says):
        probe.run()


def test_a_stream_that_stalls_or_never_ends_is_timed_out(serve):
    raw = captured("completions_cut")
    for script in ([raw, 5.0], [raw, *[b"7\r\n: ping\n\r\n", 0.05] * 100]):
        _server, probe = serve({"/v1/completions": script}, timeout=0.3)
        began = time.monotonic()
        with fails("timed_out", "after 6 tokens"):
            probe.first_token()
        assert time.monotonic() - began < 2


def test_a_server_that_dies_during_warm_up_is_server_exited(serve):
    server, _probe = serve({"/v1/completions": (captured("completions"), captured("completions_cut"))})

    def alive():
        if len(server.asked) >= 4:
            raise WarmstartError("server_exited", "gone")

    with fails("server_exited", "gone") as failed:
        Probe({"url": server.url, "warmup_requests": 5}, alive).run()
    assert len(failed.error.facts["probe"]["warmup"]) == 1


def test_a_request_that_the_server_refuses(serve):
    _server, probe = serve({"/v1/completions": captured("completions_refused")}, first_token=True)
    with fails("request_failed", "answered 400", "exceeds the available context size"):
        probe.run()


def test_wrong_model_even_without_tokens(serve):
    _server, probe = serve(model="other")
    with fails("wrong_model", "'other'", "'tiny'"):
        probe.run()


@pytest.mark.parametrize(
    ("models", "code", "says"),
    [
        (answer("200 OK", '{"data":[]}'), "wrong_model", "none"),
        (answer("200 OK", "[]"), "request_failed", "not a list of models"),
        (answer("401 Unauthorized", "who are you"), "request_failed", "401: who are you"),
        (b"", "unhealthy", "/v1/models"),
    ],
)
def test_models_that_cannot_be_read(serve, models, code, says):
    _server, probe = serve({"/v1/models": models}, first_token=True)
    with fails(code, says):
        probe.run()


def test_a_server_without_a_list_of_models_is_asked_for_the_one_given(serve):
    server, probe = serve(
        {"/v1/models": answer("404 Not Found", ""), "/v1/completions": captured("completions")}, model="mine", first_token=True
    )
    assert probe.run()["model"] == "mine"
    assert json.loads(server.asked[-1][2])["model"] == "mine"
