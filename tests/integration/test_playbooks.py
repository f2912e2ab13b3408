"""golden, rollout and teardown on the lab's two hosts, as an operator runs them."""

from __future__ import annotations

import json

import pytest
from labtool import came_by


def on(lab, host: str, command: str) -> str:
    return lab.ssh(host, command).stdout.strip()


@pytest.fixture(scope="module")
def fleet(provisioned, tmp_path_factory):
    store = tmp_path_factory.mktemp("golden")
    variables = {"warmstart_controller_store": str(store)}

    def play(name: str, extra: dict | None = None, *options: str) -> tuple[int, str]:
        return provisioned.playbook(name, {**variables, **(extra or {})}, *options)

    yield provisioned, play, store
    play("teardown")


def test_golden_then_rollout_then_again_then_teardown(fleet):
    lab, play, store = fleet
    second = lab.hosts[1]
    code, output = play("golden", {}, "--check")
    assert code == 0, output
    assert not (store / "llama").exists()
    code, output = play("golden")
    assert code == 0, output
    (folder,) = (store / "llama" / "1").iterdir()  # both hosts are of one class
    manifest = json.loads((folder / "manifest.json").read_text())
    assert folder.name == manifest["class"]
    assert manifest["metadata"]["cold_start"]["total"] > 0
    assert len(manifest["metadata"]["warmup"]) == 5
    assert manifest["oracle"]["tokens"]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "checkpoint.tar").stat().st_mode & 0o777 == 0o600
    code, output = play("golden")
    assert code == 0, output
    assert "changed=0" in output

    code, output = play("rollout", {}, "--check")
    assert code == 0, output
    assert on(lab, second, "podman ps --all --quiet") == ""
    code, output = play("rollout")
    assert code == 0, output
    for host in lab.hosts:
        assert came_by(output, host) == "archive"
        assert on(lab, host, "podman ps --format '{{.Names}}'") == "llama"
    code, output = play("rollout")
    assert code == 0, output
    assert output.count("changed=0") == len(lab.hosts)
    assert {came_by(output, host) for host in lab.hosts} == {"running"}

    code, output = play("golden", {"warmup_requests": 1, "warmstart_server": {"name": "llama", "image": "localhost/llama-server:1"}})
    assert code != 0
    assert "baked from another declaration" in output

    code, output = play("teardown")
    assert code == 0, output
    assert not (store / "llama").exists()
    left = "ls /var/lib/gpufleet-warmstart/golden; ls /run/gpufleet-warmstart/rollout.lock 2>/dev/null; true"
    for host in lab.hosts:
        assert on(lab, host, f"podman ps --all --quiet; {left}") == ""


def test_rollout_without_a_golden_checkpoint_says_what_to_do(fleet):
    _lab, play, _store = fleet
    code, output = play("rollout", {"warmstart_version": "77"})
    assert code != 0
    assert "Bake it with gpufleet.warmstart.golden" in output


def test_engine_that_dies_during_warm_up_leaves_nothing(fleet):
    lab, play, store = fleet
    dying = {
        "name": "dying",
        "image": "localhost/llama-server:1",
        "command": ["sh", "-c", "timeout --signal KILL 3 llama-server --model /models/small.gguf --host 127.0.0.1 --port 8000"],
        "volumes": ["/srv/models:/models:ro"],
        "network": "host",
    }
    code, output = play("golden", {"warmstart_server": dying, "warmup_requests": 10000})
    assert code != 0
    assert "Warm it up" in output
    assert on(lab, lab.hosts[0], "podman ps --all --quiet; ls /var/lib/gpufleet-warmstart/golden 2>/dev/null; true") == ""
    assert not (store / "dying").exists()
