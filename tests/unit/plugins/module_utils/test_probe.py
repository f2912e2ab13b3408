# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe's options: what is refused, what stays secret, and that documentation and argument spec agree.

The rest of the probe: test_probe_wait.py, test_probe_tokens.py, test_stream.py.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._probe import PROBE_OPTIONS, PROBE_SUBOPTION, Probe
from ansible_collections.gpufleet.warmstart.tests.unit.plugins.module_utils.probe_server import answer, fails


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
