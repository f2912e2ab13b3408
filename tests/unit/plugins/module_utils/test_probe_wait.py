# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe's wait for a healthy server, against real sockets on 127.0.0.1."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._probe import Probe
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError
from ansible_collections.gpufleet.warmstart.tests.unit.plugins.module_utils.probe_server import answer, captured, fails


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


def test_a_certificate_that_nobody_trusts_fails_at_once(tmp_path):
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "pem", "-out", tmp_path / "crt"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *name], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve_once():
            with contextlib.suppress(OSError), listener.accept()[0] as connection:
                context.wrap_socket(connection, server_side=True)

        threading.Thread(target=serve_once, daemon=True).start()
        with fails("unreachable", "CERTIFICATE_VERIFY_FAILED", "https://"):
            Probe({"url": f"https://127.0.0.1:{listener.getsockname()[1]}", "timeout": 30}).run()


def test_a_slow_health_answer_is_given_more_time(serve):
    _server, probe = serve({"/health": [1.2, captured("health_ok")]})
    assert probe.run()["attempts"] == 2


def test_a_lost_connection_request_is_not_waited_for():
    """A full backlog drops SYNs, as a network locked by CRIU does; the kernel sends them again after 1 s and 3 s."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        crowd = [socket.socket() for _caller in range(4)]
        for caller in crowd:
            caller.setblocking(False)
            caller.connect_ex(address)
        opened = []

        def make_room():
            time.sleep(1.2)
            for caller in crowd:
                caller.close()
            opened.append(time.monotonic())
            while True:
                with contextlib.suppress(OSError), listener.accept()[0] as connection:
                    if connection.recv(65536):
                        connection.sendall(captured("health_ok"))
                        return

        threading.Thread(target=make_room, daemon=True).start()
        Probe({"url": "http://{}:{}".format(*address), "timeout": 10}).run()
        assert time.monotonic() - opened[0] < 0.65


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
