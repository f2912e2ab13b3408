# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rollout does where something goes wrong: two versions of one golden checkpoint on the lab's two hosts, as an operator runs it.

The tests run in the order in which they stand; each leaves both hosts serving.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from labtool import came_by

PROMPT_OF_VERSION_2 = "Warm starts are"
LOCK = "/run/gpufleet-warmstart/rollout.lock"


@pytest.fixture(scope="module")
def fleet(provisioned, tmp_path_factory):
    """Both hosts serve version 1, and the controller has version 2, too."""
    store = tmp_path_factory.mktemp("golden")
    hooks = tmp_path_factory.mktemp("hooks")
    for name in ("drain", "undrain"):
        (hooks / f"{name}.yml").write_text(f"- name: Call the load balancer\n  ansible.builtin.shell: echo {name} >>/run/balancer\n")

    class Fleet:
        lab, hosts = provisioned, provisioned.hosts

        def play(self, name: str, *options: str, **variables) -> tuple[int, str]:
            values = {"warmstart_controller_store": str(store), "warmup_requests": 1, **variables}
            return provisioned.playbook(name, values, *options)

        def rollout(self, version: str, host: str | None = None, **variables) -> tuple[int, str]:
            only = {"warmstart_hosts": host} if host else {}
            return self.play("rollout", warmstart_version=version, **only, **variables)

        def on(self, host: str, command: str) -> str:
            return provisioned.ssh(host, command).stdout.strip()

        def archive(self, version: str):
            (found,) = store.glob(f"llama/{version}/*/checkpoint.tar")
            return found

        def current(self, host: str) -> str:
            return self.on(host, "readlink /var/lib/gpufleet-warmstart/golden/llama/current")

        def serving(self, host: str) -> str:
            """The container that serves, by its ID; there must be one and nothing else."""
            assert self.on(host, "curl -sf http://127.0.0.1:8000/health") == '{"status":"ok"}'
            assert self.on(host, f"ls {LOCK} 2>/dev/null; true") == ""
            (container,) = self.on(host, "podman ps --all --no-trunc --format '{{.ID}}'").splitlines()
            return container

    fleet = Fleet()
    fleet.drain = {f"warmstart_{name}": str(hooks / f"{name}.yml") for name in ("drain", "undrain")}
    for version in ("1", "2"):
        code, output = fleet.play("golden", warmstart_version=version)
        assert code == 0, output
    code, output = fleet.rollout("1")
    assert code == 0, output
    fleet.on(fleet.hosts[0], "rm -r /var/lib/gpufleet-warmstart/golden/llama/2")  # where it was baked
    yield fleet
    fleet.play("teardown")
    for host in fleet.hosts:
        fleet.on(host, "rm -f /run/balancer")


def test_drained_before_and_back_afterwards(fleet):
    host = fleet.hosts[1]
    code, output = fleet.rollout("2", host, **fleet.drain)
    assert code == 0, output
    assert came_by(output, host) == "archive"
    assert fleet.on(host, "cat /run/balancer").split() == ["drain", "undrain"]
    assert fleet.current(host) == "2"
    code, output = fleet.rollout("2", host, **fleet.drain)
    assert (code, came_by(output, host)) == (0, "running"), output
    assert fleet.on(host, "cat /run/balancer").split() == ["drain", "undrain"]  # nothing was to do


def test_an_archive_that_does_not_arrive_leaves_the_old_server_alone(fleet):
    host, archive = fleet.hosts[0], fleet.archive("2")
    before, whole = fleet.serving(host), archive.read_bytes()
    middle = len(whole) // 2
    archive.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    code, output = fleet.rollout("2", host)
    assert code != 0
    assert came_by(output, host) == "kept"
    assert "digest_mismatch" in output
    assert (fleet.serving(host), fleet.current(host)) == (before, "1")
    fleet.on(host, "podman rm --force --time 0 llama")
    try:
        code, output = fleet.rollout("2", host)
    finally:
        archive.write_bytes(whole)
    assert code != 0
    assert came_by(output, host) == "previous"  # nothing served, and version 1 is there
    fleet.serving(host)


def test_a_server_that_answers_otherwise_is_replaced_by_the_previous_golden_checkpoint(fleet):
    host = fleet.hosts[0]
    manifest = fleet.archive("2").parent / "manifest.json"
    kept = manifest.read_text()
    oracle = {**json.loads(kept)["oracle"], "tokens": ["something", " else"]}
    manifest.write_text(json.dumps({**json.loads(kept), "oracle": oracle}))
    try:
        code, output = fleet.rollout("2", host)
    finally:
        manifest.write_text(kept)
    assert code != 0
    assert came_by(output, host) == "previous"
    assert "oracle_mismatch" in output
    fleet.serving(host)
    assert fleet.current(host) == "1"
    fleet.on(host, "rm -r /var/lib/gpufleet-warmstart/golden/llama/2")


def test_a_lost_canary_stops_the_rollout_and_a_lost_host_within_the_limit_does_not(fleet):
    first, second = fleet.hosts
    before = fleet.serving(second)
    lost = {"ansible_port": 9, "ansible_control_path": "/run/gpufleet-lab/lost"}  # no connection that is open already

    def rollout(**variables) -> tuple[int, str]:
        inventory = ("-i", str(fleet.lab.folder / "lost"))
        (fleet.lab.folder / "lost").write_text(f"{first} {' '.join(f'{key}={value}' for key, value in lost.items())}\n")
        return fleet.play("rollout", *inventory, warmstart_version="1", **variables)

    code, output = rollout(warmstart_serial=[1, "100%"])
    assert code != 0
    assert came_by(output, first) == "lost"
    assert (fleet.serving(second), fleet.current(second)) == (before, "2")
    code, output = rollout(warmstart_serial=["100%"], warmstart_max_fail_percentage=50)
    assert code != 0
    assert came_by(output, first) == "lost"
    assert came_by(output, second) == "archive"
    assert fleet.current(second) == "1"
    fleet.serving(second)


def test_a_second_rollout_is_refused_with_who_holds_the_lock(fleet):
    host = fleet.hosts[0]
    told = {"controller": socket.gethostname(), "user": "somebody", "pid": os.getpid(), "what": "llama 7", "since": "noon"}
    began = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    fleet.on(host, f"echo '{json.dumps({**told, 'began': began})}' >{LOCK}")
    code, output = fleet.rollout("1", host)
    assert code != 0
    assert "locked" in output
    assert f"somebody on {socket.gethostname()} (process {os.getpid()}) has rolled out llama 7 since noon" in output
    fleet.on(
        host, f"echo '{json.dumps({**told, 'began': 'another time'})}' >{LOCK}"
    )  # a process that has ended, and its number is used again
    code, output = fleet.rollout("1", host)
    assert (code, came_by(output, host)) == (0, "running"), output
    fleet.serving(host)


def test_rebake_finds_what_is_stale(fleet):
    host = fleet.hosts[1]
    newer = '#!/bin/sh\n[ "$1" = --version ] && echo \'Version: 4.1\' || exec /usr/sbin/criu "$@"\n'
    code, output = fleet.play("rebake", "--check", warmstart_version="3")
    assert code == 0, output
    assert "no hosts matched" in output
    fleet.on(host, f"printf '%b' '{newer}' >/usr/local/sbin/criu; chmod 755 /usr/local/sbin/criu")
    try:
        code, output = fleet.play("rebake", warmstart_version="1")
        assert code != 0
        assert "Version 1 is here already" in output
        code, output = fleet.play("rebake", warmstart_version="3")
        assert code == 0, output
        assert came_by(output, host) in ("archive", "running")
        assert f"{fleet.hosts[0]} " not in output.rpartition("TASK [gpufleet.warmstart.restore : Summary]")[2].partition("TASK")[0]
    finally:
        fleet.on(host, "rm /usr/local/sbin/criu")
    assert (fleet.current(host), fleet.current(fleet.hosts[0])) == ("3", "1")
