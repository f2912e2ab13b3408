# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe's time to first token against that of a client that is not ours, the openai package, on the same lab server."""

from __future__ import annotations

import statistics
import time

import openai
import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._probe import Probe

PORT, NAME, ROUNDS, TOKENS = 18601, "test-independent-client", 21, 4


@pytest.fixture
def url(provisioned):
    host = provisioned.hosts[0]
    engine = f"llama-server --model /models/small.gguf --host 0.0.0.0 --port {PORT} --ctx-size 512 --parallel 1 --threads 1"
    image = "localhost/llama-server:1"
    provisioned.ssh(host, f"podman run --detach --name {NAME} --network host --volume /srv/models:/models:ro {image} {engine}")
    yield f"http://{provisioned._addresses[host]['ansible_host']}:{PORT}"
    provisioned.ssh(host, f"podman rm --force --time 0 --ignore {NAME}")


def prompt(number: int) -> str:
    """As long as any other, and new to the server from its first word on, so that its cache of prompts helps nobody."""
    return f"{number:03d} " + "word " * 25


def by_openai(client: openai.OpenAI, model: str, number: int) -> float:
    began = time.monotonic()
    taken = None
    with client.completions.create(model=model, prompt=prompt(number), max_tokens=TOKENS, temperature=0, stream=True) as stream:
        for piece in stream:
            if taken is None and piece.choices and piece.choices[0].text:
                taken = time.monotonic() - began
    assert taken is not None
    return taken


def test_medians_agree(url):
    """From the same process, in turn, so that the network and the machine's load are the same for both."""
    model = Probe({"url": url, "timeout": 60, "first_token": True}).run()["model"]
    ours, theirs = [], []
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        by_openai(client, model, 0)  # its first request imports what it needs
        for number in range(1, ROUNDS + 1):
            probe = Probe({"url": url, "model": model, "prompt": prompt(2 * number), "max_tokens": TOKENS})
            for turn in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
                if turn == "ours":
                    ours.append(probe.first_token()["first_token"])
                else:
                    theirs.append(by_openai(client, model, 2 * number + 1))
    ours_median, theirs_median = statistics.median(ours), statistics.median(theirs)
    print(f"probe {ours_median * 1000:.1f} ms, openai {theirs_median * 1000:.1f} ms, medians of {ROUNDS}")
    assert abs(ours_median - theirs_median) <= max(0.1 * theirs_median, 0.003)
