"""_podman.py: what is read from podman's own output, and the arguments that start a server."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _podman

CAPTURES = Path(__file__).parents[2] / "captures"


def capture(name: str) -> str:
    return (CAPTURES / name).read_text()


def container(name: str) -> _podman.Container:
    return _podman.Container(json.loads(capture(f"podman_inspect_{name}.json"))[0])


def test_statistics_of_a_checkpoint_are_seconds():
    assert _podman.statistics(capture("podman_checkpoint_stats.json")) == pytest.approx(
        {"criu": 0.259534, "freezing": 0.100693, "frozen": 0.07196, "dump": 0.0293, "write": 0.022133}
    )


def test_statistics_of_a_restore_are_seconds():
    assert _podman.statistics(capture("podman_restore_stats.json")) == pytest.approx(
        {"criu": 0.194665, "forking": 3e-06, "restore": 0.085133}
    )


@pytest.mark.parametrize("text", [capture("podman_restore_stats_of_failure.json"), "", "s1\n", '{"podman_'])
def test_statistics_are_empty_where_podman_printed_none(text):
    assert _podman.statistics(text) == {}


def test_a_running_container():
    running = container("running")
    assert running.running
    assert running.pid > 1
    assert running.runtime == "crun"
    assert running.started.year == 2026
    assert running.published() == []


def test_a_checkpointed_container_has_no_process():
    checkpointed = container("checkpointed")
    assert not checkpointed.running
    assert checkpointed.pid == 0
    assert checkpointed.state["Checkpointed"]


def test_a_restored_container_began_to_run_when_it_was_restored():
    restored = container("restored")
    assert restored.running
    assert restored.started == _podman.parse_time(restored.state["RestoredAt"])
    assert restored.started > _podman.parse_time(restored.state["StartedAt"])


def test_parse_time_takes_what_podman_prints():
    assert _podman.parse_time("2026-11-21T21:03:10.816299732Z") == datetime(2026, 11, 21, 21, 3, 10, 816299, timezone.utc)
    assert _podman.parse_time("0001-01-01T00:00:00Z").year == 1
    assert _podman.parse_time("").year == 1


def test_environment_values_never_stand_in_the_arguments():
    server = {"image": "i", "command": ["serve"], "env": {"TOKEN": "s3cret"}, "publish": ["8000:8000"], "args": ["--init"]}
    arguments, env = _podman.run_arguments("llama", server, {"a": "b"})
    assert env == {"TOKEN": "s3cret"}
    assert "s3cret" not in " ".join(arguments)
    assert arguments[arguments.index("--env") + 1] == "TOKEN"
    assert arguments[arguments.index("--label") + 1] == "a=b"
    assert arguments[-3:] == ["--init", "i", "serve"]


def test_the_declaration_changes_with_the_server_but_not_with_its_name():
    server = {"image": "i", "name": "a"}
    assert _podman.declaration_digest(server) == _podman.declaration_digest({**server, "name": "b", "env": {}})
    assert _podman.declaration_digest(server) != _podman.declaration_digest({**server, "network": "host"})


def test_criu_errors_are_the_lines_that_say_error(tmp_path):
    log = tmp_path / "dump.log"
    log.write_text("(00.1) cg: Set 1 is criu one\n" + capture("podman_checkpoint_ghost.log"))
    assert _podman.criu_errors(log).splitlines()[0].endswith("Can't dump ghost file /tmp/big of 3002368 size, increase limit")
    assert "cg: Set" not in _podman.criu_errors(log)
    assert _podman.criu_errors(tmp_path / "none.log") == ""
