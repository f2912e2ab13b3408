# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe's time to first token against that of a client that is not ours, the openai package, on the same lab server."""

from __future__ import annotations

import statistics
import time

import openai
import pytest

PORT, NAME, ROUNDS = 18601, "test-independent-client", 15
PROMPT, TOKENS = "The capital of France is", 8


@pytest.fixture
def url(provisioned):
    host = provisioned.hosts[0]
    engine = f"llama-server --model /models/small.gguf --host 0.0.0.0 --port {PORT} --ctx-size 512 --parallel 1 --threads 1"
    image = "localhost/llama-server:1"
    provisioned.ssh(host, f"podman run --detach --name {NAME} --network host --volume /srv/models:/models:ro {image} {engine}")
    yield f"http://{provisioned._addresses[host]['ansible_host']}:{PORT}"
    provisioned.ssh(host, f"podman rm --force --time 0 --ignore {NAME}")


def first_token(client: openai.OpenAI, model: str) -> float:
    began = time.monotonic()
    with client.completions.create(model=model, prompt=PROMPT, max_tokens=TOKENS, temperature=0, stream=True) as stream:
        for piece in stream:
            if piece.choices and piece.choices[0].text:
                taken = time.monotonic() - began
                for _rest in stream:
                    pass
                return taken
    raise AssertionError("no token")


def test_medians_agree(provisioned, url):
    """Interleaved, and in the same order of things: each client warms the prompt's cache for the other."""
    options = {
        "url": f"http://127.0.0.1:{PORT}",
        "timeout": 60,
        "first_token": True,
        "prompt": PROMPT,
        "max_tokens": TOKENS,
        "warmup_requests": 1,
    }
    model = provisioned.ansible("gpufleet.warmstart.inference_probe", options)["model"]
    ours, theirs = [], []
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        first_token(client, model)
        for _round in range(ROUNDS):
            ours.append(provisioned.ansible("gpufleet.warmstart.inference_probe", options)["first_token"])
            first_token(client, model)  # as the probe's warm-up request
            theirs.append(first_token(client, model))
    ours_median, theirs_median = statistics.median(ours), statistics.median(theirs)
    print(f"probe {ours_median * 1000:.1f} ms, openai {theirs_median * 1000:.1f} ms, medians of {ROUNDS}")
    assert abs(ours_median - theirs_median) <= max(0.1 * theirs_median, 0.003)
