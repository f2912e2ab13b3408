# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe against real sockets that send what Debian's llama-server (0.7.0) sent: captures/llama_server_*.http.bin.

Listens on 127.0.0.1 only. A real llama-server is probed in tests/integration/test_inference_probe.py.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPResponse, IncompleteRead
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._probe import PROBE_OPTIONS, PROBE_SUBOPTION, Probe
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError
from ansible_collections.gpufleet.warmstart.plugins.module_utils._stream import content_pieces

CAPTURES = Path(__file__).parents[2] / "captures"
COMPLETIONS = [" w90", " w245", " w436", " w220", " w245", "\ufffd w220", " w506"]
CHAT = [" w263", " w523", " w257", "A", " w31", " w220", " w263", " w31"]


def captured(name: str) -> bytes:
    return (CAPTURES / f"llama_server_{name}.http.bin").read_bytes()


def body_of(answer: bytes) -> bytes:
    """The body of a captured answer, without the chunk sizes; what there is of it, if it was cut."""

    class Wire:
        def makefile(self, _mode):
            return BytesIO(answer)

    response = HTTPResponse(Wire())
    response.begin()
    try:
        return response.read()
    except IncompleteRead as error:
        return error.partial


def answer(status: str, body: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body.encode())}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body.encode()


class Server:
    """Answers each path with the next of its scripted answers, then with the last one again and again.

    An answer is a list of bytes (sent) and floats (seconds to sleep). Remembers the requests in `asked`.
    """

    def __init__(self, **paths):
        self.paths = {"/health": captured("health_ok"), "/v1/models": captured("models"), **paths}
        self.asked: list[tuple[str, dict, bytes]] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.reply, args=(connection,), daemon=True).start()

    def reply(self, connection):
        with connection, connection.makefile("rb") as request:
            line = request.readline()
            if not line.endswith(b" HTTP/1.1\r\n"):
                return
            path = line.split()[1].decode()
            headers = {}
            while line := request.readline().strip():
                name, _colon, value = line.decode().partition(": ")
                headers[name.lower()] = value
            seen = sum(path == old for old, _headers, _body in self.asked)
            self.asked.append((path, headers, request.read(int(headers.get("content-length", 0)))))
            script = self.paths.get(path, answer("404 Not Found", "nothing here"))
            script = script if isinstance(script, tuple) else (script,)
            step = script[min(seen, len(script) - 1)]
            for part in step if isinstance(step, list) else [step]:
                try:
                    time.sleep(part) if isinstance(part, float) else connection.sendall(part)
                except OSError:
                    return


@pytest.fixture
def serve():
    servers = []

    def start(paths=(), **options):
        servers.append(Server(**dict(paths)))
        return servers[-1], Probe({"url": servers[-1].url, "timeout": 5.0, **options})

    yield start
    for server in servers:
        server.listener.close()


def fails(code: str, *words: str):
    """The block must raise this reason, and its message must hold these words."""
    return Fails(code, words)


class Fails:
    def __init__(self, code, words):
        self.code, self.words = code, words

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _traceback):
        assert kind is WarmstartError, f"no WarmstartError but {error!r}"
        self.error = error
        assert (error.reason.code, [word for word in self.words if word not in str(error)]) == (self.code, []), str(error)
        return True


# -- the stream ------------------------------------------------------------------------------------------------------


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


# -- waiting ---------------------------------------------------------------------------------------------------------


def test_503_while_loading_is_waited_through(serve):
    server, probe = serve({"/health": (captured("health_loading"),) * 3 + (captured("health_ok"),)})
    started = time.monotonic() - 100
    result = probe.run(started)
    assert result == {"healthy_after": pytest.approx(100, abs=1), "attempts": 4, "status": 200, "warmup": []}
    assert [path for path, _headers, _body in server.asked] == ["/health"] * 4
    assert server.asked[0][1]["connection"] == "close"


def test_loading_until_the_timeout_carries_the_last_answer(serve):
    _server, probe = serve({"/health": captured("health_loading")}, timeout=0.3)
    with fails("timed_out", "503", "Loading model", "/health") as failed:
        probe.run()
    assert failed.error.facts["probe"]["status"] == 503
    assert "Loading model" in failed.error.facts["probe"]["body"]
    assert failed.error.facts["probe"]["attempts"] > 5


def test_500_until_the_timeout_is_unhealthy(serve):
    _server, probe = serve({"/health": answer("500 Internal Server Error", "CUDA error:\n  an illegal memory access")}, timeout=0.3)
    began = time.monotonic()
    with fails("unhealthy", "answered 500: CUDA error: an illegal memory access") as failed:
        probe.run()
    assert time.monotonic() - began == pytest.approx(0.3, abs=0.2)
    assert failed.error.facts["probe"]["status"] == 500


def test_refused_until_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with fails("refused", f"http://127.0.0.1:{port}/health", "refused"):
        Probe({"url": f"http://127.0.0.1:{port}", "timeout": 0.2}).run()


def test_a_server_that_starts_to_listen_is_found_within_milliseconds():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    late = []

    def listen():
        time.sleep(0.3)
        listener = socket.create_server(("127.0.0.1", port))
        late.append(time.monotonic())
        connection = listener.accept()[0]
        connection.recv(65536)
        connection.sendall(captured("health_ok"))
        connection.close()
        listener.close()

    threading.Thread(target=listen, daemon=True).start()
    Probe({"url": f"http://127.0.0.1:{port}", "timeout": 5}).run()
    assert time.monotonic() - late[0] < 0.1


def test_no_answer_at_all_is_timed_out(serve):
    _server, probe = serve({"/health": [5.0]}, timeout=0.3)
    with fails("timed_out", "not answered in time"):
        probe.run()


def test_a_health_answer_without_end_is_timed_out(serve):
    _server, probe = serve({"/health": [b"HTTP/1.1 200 OK\r\n\r\n", *[b"x", 0.05] * 100]}, timeout=0.3)
    began = time.monotonic()
    with fails("timed_out"):
        probe.run()
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("nonsense", [b"", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_what_closes_or_speaks_no_http_is_unhealthy(serve, nonsense):
    _server, probe = serve({"/health": nonsense}, timeout=0.2)
    with fails("unhealthy", "/health"):
        probe.run()


def test_a_redirect_fails_at_once_and_names_its_target(serve):
    _server, probe = serve({"/health": answer("302 Found", "", "Location: https://elsewhere.example/")})
    began = time.monotonic()
    with fails("unhealthy", "302", "https://elsewhere.example/", "set url"):
        probe.run()
    assert time.monotonic() - began < 1


def test_tls_to_a_server_without_it_and_a_name_that_does_not_exist_are_unreachable(serve):
    server, _probe = serve()
    with fails("unreachable", "https://"):
        Probe({"url": server.url.replace("http", "https"), "timeout": 0.2}).run()
    with fails("unreachable", "no-such-host.invalid"):
        Probe({"url": "http://no-such-host.invalid", "timeout": 0.2}).run()


def test_polls_back_off_with_the_time_waited(serve, monkeypatch):
    _server, probe = serve({"/health": captured("health_loading")}, timeout=400.0)
    clock, pauses = [1000.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(
        time, "sleep", lambda seconds: (pauses.append((clock[0] - 1000, seconds)), clock.__setitem__(0, clock[0] + seconds))
    )
    monkeypatch.setattr(probe, "_poll", lambda *_args: WarmstartError("refused", "x"))
    with fails("refused", "Gave up after 400.0 s"):
        probe.run()
    assert {seconds for at, seconds in pauses if at < 5} == {0.01}
    assert [max(seconds for at, seconds in pauses if low <= at < low + 1) for low in (49, 249, 398)] == pytest.approx(
        [0.1, 0.5, 0.5], rel=0.01
    )


@pytest.mark.parametrize(
    ("condition", "body"), [("status=='ok'", None), ("loaded", '{"loaded": 0}'), ("length(models)", '{"models": [1]}')]
)
def test_condition_becomes_true(serve, condition, body):
    good = answer("200 OK", body) if body else captured("health_ok")
    _server, probe = serve({"/health": (answer("200 OK", "starting"), answer("200 OK", '{"status":"loading"}'), good)}, condition=condition)
    assert probe.run()["attempts"] == 3


@pytest.mark.parametrize(("condition", "says"), [("status=='up'", "false"), ("missing", "null"), ("length(missing)", "length()")])
def test_condition_that_stays_false(serve, condition, says):
    _server, probe = serve(condition=condition, timeout=0.2)
    with fails("condition_false", condition, says, '{"status":"ok"}'):
        probe.run()


def test_the_server_that_died_ends_the_wait():
    def dead():
        raise WarmstartError("server_exited", "llama ended with exit status 1.")

    began = time.monotonic()
    with fails("server_exited", "exit status 1"):
        Probe({"url": "http://127.0.0.1:9", "timeout": 30}, alive=dead).run()
    assert time.monotonic() - began < 2


def test_alive_is_asked_now_and_then_only():
    asked = []
    with fails("refused"):
        Probe({"url": "http://127.0.0.1:9", "timeout": 0.5}, alive=lambda: asked.append(time.monotonic())).run()
    assert 2 <= len(asked) <= 4


# -- tokens ----------------------------------------------------------------------------------------------------------


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


# -- options, secrets, dependencies ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"interval": 0}, "interval is 0"),
        ({"interval": -1}, "interval is -1"),
        ({"interval": float("nan")}, "interval is nan"),
        ({"timeout": 0.0}, "timeout is 0"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"warmup_requests": -1}, "warmup_requests is -1"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"health_path": "health"}, "begin with a slash"),
        ({"url": "127.0.0.1:8000"}, "url"),
        ({"url": "ftp://host"}, "http://HOST:PORT"),
        ({"url": "http://"}, "http://HOST:PORT"),
        ({"url": "http://host:port"}, "url"),
        ({"url": "http://host:99999"}, "http://HOST:PORT"),
        ({"url": "http://host/v1/"}, "leave /v1 out"),
        ({"url": "http://host/?a=b"}, "http://HOST:PORT"),
        ({"condition": "a ="}, "is not jmespath"),
        ({"condition": "nope(a)"}, "nope"),
        ({"headers": {"Bad Name": "x"}}, "'Bad Name'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(options, says):
    with fails("bad_input", says):
        Probe({"url": "http://127.0.0.1:9", **options})


def test_secrets_are_in_no_message(serve):
    with fails("bad_input", "'Authorization'") as failed:
        Probe({"url": "http://host", "headers": {"Authorization": "Bearer sk-very\nsecret"}})
    assert "sk-very" not in str(failed.error)
    with fails("bad_input", "headers") as failed:
        Probe({"url": "http://me:sk-very@host"})
    assert "sk-very" not in str(failed.error)
    echo = answer("401 Unauthorized", '{"error": "bad key sk-very-secret"}')
    _server, probe = serve({"/health": echo}, headers={"Authorization": "Bearer sk-very-secret"}, timeout=0.1)
    with fails("unhealthy", "401", "bad key") as failed:
        probe.run()
    assert "sk-very" not in str(failed.error.as_result())
    assert PROBE_OPTIONS["headers"]["no_log"] is True


def test_proxies_of_the_environment_are_not_used(serve, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert serve()[1].run()["status"] == 200


def test_suboption_differs_in_first_token_only():
    changed = {name for name, spec in PROBE_SUBOPTION["options"].items() if spec != PROBE_OPTIONS[name]}
    assert changed == {"first_token"}
    assert PROBE_SUBOPTION["options"]["first_token"]["default"] is True


@pytest.mark.parametrize(("library", "options"), [("httpx", {}), ("jmespath", {"condition": "a"})])
def test_a_host_without_the_library_gets_a_reason(library, options):
    """In a process of its own: the import of _probe itself must not need it, and must not take its time."""
    code = (
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "from ansible_collections.gpufleet.warmstart.plugins.module_utils import _probe\n"
        "try: _probe.Probe({'url': 'http://127.0.0.1:9', **eval(sys.argv[2])})\n"
        "except _probe.WarmstartError as error: print(error.reason.code, error.detail)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, library, repr(options)], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.startswith("dependency_missing"), done.stderr
    assert library in done.stdout


def test_documentation_and_argument_spec_agree():
    yaml = pytest.importorskip("yaml")
    from ansible_collections.gpufleet.warmstart.plugins.doc_fragments.probe import ModuleDocFragment

    top = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]
    nested = yaml.safe_load(ModuleDocFragment.SUBOPTION)["options"]["probe"]["suboptions"]
    for documented, spec in ((top, PROBE_OPTIONS), (nested, PROBE_SUBOPTION["options"])):
        keys = ("type", "default", "required", "choices")
        assert {name: {key: option.get(key) for key in keys} for name, option in documented.items()} == {
            name: {key: option.get(key) for key in keys} for name, option in spec.items()
        }
