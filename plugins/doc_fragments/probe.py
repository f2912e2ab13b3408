# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the probe, documented once: for inference_probe, and as the suboptions of `probe` for modules that start a server.

The options themselves are PROBE_OPTIONS and PROBE_SUBOPTION in plugins/module_utils/_probe.py.
"""

from __future__ import annotations

from textwrap import indent


def _as_suboptions(documentation: str) -> str:
    """The same options one level down, below `probe`; there the first token is measured unless told otherwise."""
    requirements, _options, options = documentation.partition("options:\n")
    return (
        f"{requirements}options:\n  probe:\n    type: dict\n"
        "    description: How to tell that the server serves, as for M(gpufleet.warmstart.inference_probe).\n"
        f"    suboptions:\n{indent(options, '    ').replace('default: false', 'default: true')}"
    )


class ModuleDocFragment:
    DOCUMENTATION = r"""
requirements:
  - Python library httpx on the host that the module runs on (Debian and Ubuntu package python3-httpx).
  - Python library jmespath, where a condition is given (python3-jmespath).
options:
  url:
    description:
      - Where the server listens, as C(http://HOST:PORT), without C(/v1). With C(https), the host's certificate store decides.
      - Proxies from the environment are not used, redirects are not followed.
    type: str
    required: true
  health_path:
    description: What is polled. Any status from 200 to 299 means healthy, 503 means that it still loads.
    type: str
    default: /health
  timeout:
    description: Seconds to wait for the server to become healthy, and then for the answer to each request.
    type: float
    default: 300
  interval:
    description:
      - Seconds between two polls, more than 0.
      - After 5 s of waiting the pause grows with the time waited, up to 0.5 s.
    type: float
    default: 0.01
  condition:
    description:
      - A jmespath expression over the JSON answer of the health path, which must become true as well.
      - As in jmespath, null, false and empty strings, lists and objects are false.
      - If health answers without JSON, as vLLM does, set the health path to one that answers with JSON, such as C(/v1/models).
    type: str
  model:
    description: The model to ask, which the server must list at C(/v1/models); by default the first that it lists.
    type: str
  warmup_requests:
    description: Number of requests to send, one after the other, before the first token is timed.
    type: int
    default: 0
  first_token:
    description:
      - Stream one answer and time its first piece of text. An empty piece, or one that only names a role, does not count.
      - What a reasoning model thinks counts.
    type: bool
    default: false
  api:
    description: Ask C(/v1/completions) or C(/v1/chat/completions).
    type: str
    choices: [completions, chat]
    default: completions
  prompt:
    description: What to ask.
    type: str
    default: The capital of France is
  max_tokens:
    description: Number of tokens to ask for, in warm-up requests too.
    type: int
    default: 16
  headers:
    description: HTTP headers for every request, such as C(Authorization). Their values are kept out of logs and results.
    type: dict
"""

    # The fragment gpufleet.warmstart.probe.suboption; a module may describe its `probe` itself. The annotation keeps
    # ansible-test's yamllint, which can only read literals, away.
    SUBOPTION: str = _as_suboptions(DOCUMENTATION)
