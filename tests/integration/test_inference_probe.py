# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""inference_probe on a lab host, against real llama-servers in podman containers there. Removes the containers it starts."""

from __future__ import annotations

import time

import pytest

IMAGE = "localhost/llama-server:1"
LIBRARIES = "python3-httpx python3-jmespath"


class Host:
    """One lab host and the servers started on it."""

    def __init__(self, lab):
        self.lab, self.name, self.engines = lab, lab.hosts[0], []

    def probe(self, port: int, check: bool = False, **arguments) -> dict:
        url = f"http://127.0.0.1:{port}"
        return self.lab.ansible("gpufleet.warmstart.inference_probe", {"url": url, **arguments}, self.name, check=check)

    def shell(self, command: str) -> None:
        self.lab.ssh(self.name, command)

    def engine(self, port: int, model: str, delay: float = 0) -> str:
        """Start a server `delay` seconds from now, without waiting for it; its name."""
        name = f"test-probe-{port}"
        self.engines.append(name)
        server = f"llama-server --model /models/{model}.gguf --alias {model} --host 127.0.0.1 --port {port} --ctx-size 512 --parallel 1"
        run = f"podman run --detach --name {name} --network host --volume /srv/models:/models:ro {IMAGE} {server}"
        self.shell(f"(sleep {delay}; {run}) >/dev/null 2>&1 &" if delay else run)
        return name


@pytest.fixture(scope="module")
def host(lab):
    host = Host(lab)
    update = "apt-get -qq -o Acquire::Check-Valid-Until=false update"
    host.shell(f"python3 -c 'import httpx, jmespath' || {{ {update} && apt-get -qq install --no-install-recommends -y {LIBRARIES}; }}")
    yield host
    host.shell("podman rm --force --time 0 --volumes --ignore " + " ".join(host.engines))


@pytest.fixture(scope="module")
def small(host):
    """Port of a healthy server with the small model."""
    host.engine(18431, "small")
    assert host.probe(18431, timeout=60)["status"] == 200
    return 18431


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_tokens_are_the_same_in_check_mode_and_again(host, small, api):
    options = {"api": api, "first_token": True, "warmup_requests": 1, "max_tokens": 8, "condition": "status=='ok'"}
    results = [host.probe(small, check=check, **options) for check in (True, False, False)]
    for result in results:
        assert result["changed"] is False
        assert result["model"] == "small"
        assert "".join(result["tokens"]) == result["text"] != ""
        assert len(result["warmup"]) == 1
        assert result["first_token"] > 0
        assert result["timings"]["total"] >= result["timings"]["healthy"] + sum(result["warmup"]) + result["timings"]["first_token"]
    assert len({tuple(result["tokens"]) for result in results}) == 1


def test_waits_through_a_cold_start(host):
    host.engine(18432, "large", delay=4)
    result = host.probe(18432, timeout=60, first_token=True, max_tokens=2)
    assert result["attempts"] > 20, result
    assert 0.5 < result["healthy_after"] < 60
    assert result["tokens"]


@pytest.mark.parametrize(
    ("options", "reason", "says"),
    [
        ({"model": "other"}, "wrong_model", "'small'"),
        ({"interval": 0}, "bad_input", "interval is 0"),
        ({"condition": "status=='up'", "timeout": 0.5}, "condition_false", '{"status":"ok"}'),
        ({"health_path": "/nope", "timeout": 0.5}, "unhealthy", "404"),
        ({"first_token": True, "prompt": "word " * 600}, "request_failed", "context"),
    ],
)
def test_bad_input(host, small, options, reason, says):
    result = host.probe(small, **options)
    assert (result["reason"], result["changed"]) == (reason, False), result
    assert says in result["msg"]
    assert result["fix"] in result["msg"]


def test_refused(host):
    began = time.monotonic()
    result = host.probe(18433, timeout=0.5)
    assert result["reason"] == "refused", result
    assert result["attempts"] > 5
    assert time.monotonic() - began < 20


def test_an_engine_that_never_gets_healthy(host):
    """Paused: its port is open, and nobody answers."""
    name = host.engine(18434, "small")
    assert host.probe(18434, timeout=60)["status"] == 200
    host.shell(f"podman pause {name}")
    try:
        result = host.probe(18434, timeout=2)
    finally:
        host.shell(f"podman unpause {name}")
    assert result["reason"] == "timed_out", result
    assert host.probe(18434, timeout=10)["status"] == 200


def test_an_engine_that_dies_during_warm_up(host):
    name = host.engine(18435, "large")
    assert host.probe(18435, timeout=60)["status"] == 200
    host.shell(f"(sleep 3; podman kill {name}) >/dev/null 2>&1 &")
    result = host.probe(18435, warmup_requests=1000, max_tokens=64)
    assert result["reason"] in ("malformed_stream", "refused"), result
    assert result["model"] == "large"
