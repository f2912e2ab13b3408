# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults injected for real into a rollout from version 1 to version 2, each followed by a rerun that must succeed.

After each: the last good golden checkpoint is whole, a server answers, and nothing is left over. `make chaos` (CHAOS=full) tries all of
FAULTS and prints a report; `make test` tries those marked short. Touches the lab's first host; its own folder on the controller.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from labtool import came_by

STORE = "/var/lib/gpufleet-warmstart"
GOLDEN = f"{STORE}/golden/llama"
SERVED = ("archive", "running")
FAULTS: dict[str, tuple[Callable, tuple[str, ...]]] = {}
SHORT: list[str] = []
REPORT: list[tuple[str, str]] = []  # "lost" until the fault was survived


def fault(*paths: str, short: bool = False) -> Callable:
    """A fault: a context manager around the rollout, and the ways in which the host may come to serve."""

    def register(function: Callable) -> Callable:
        FAULTS[function.__name__] = (contextlib.contextmanager(function), paths)
        if short:
            SHORT.append(function.__name__)
        return function

    return register


class Fleet:
    """One host that serves version 1, and a controller that has version 2, signed."""

    def __init__(self, lab, folder):
        self.lab, self.host, self.store, self.keys = lab, lab.hosts[0], folder / "store", folder
        for name in ("ours", "theirs"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)], check=True)
            public = " ".join((folder / f"{name}.pub").read_text().split()[:2])
            (folder / f"{name}.allowed").write_text(f'{name} namespaces="gpufleet-warmstart" {public}\n')
        self.variables: dict = {}

    def play(self, name: str, version: str, **variables) -> tuple[int, str]:
        values = {
            "warmstart_controller_store": str(self.store), "warmstart_hosts": self.host, "warmstart_version": version, "warmup_requests": 1,
            "warmstart_signing_key": str(self.keys / "ours"), "warmstart_allowed_signers": str(self.keys / "ours.allowed"),
            **self.variables, **variables,
        }  # fmt: skip
        return self.lab.playbook(name, values)

    def on(self, command: str, **options) -> str:
        return self.lab.ssh(self.host, command, **options).stdout.strip()

    @contextlib.contextmanager
    def when(self, condition: str, action: str):
        """Run `action` on the host as soon as `condition` prints a process, which is $p; it must have come to that."""
        script = f'for _ in $(seq 6000); do p=$({condition}); [ -n "$p" ] && {{ {action}; echo done >/run/chaos; exit; }}; sleep 0.01; done'
        self.on(f"rm -f /run/chaos; setsid nohup bash -c '{script}' >/dev/null 2>&1 </dev/null &")
        yield
        assert self.on("cat /run/chaos") == "done", "the fault was never injected"
        self.on("rm /run/chaos")

    def golden(self, version: str):
        (manifest,) = self.store.glob(f"llama/{version}/*/manifest.json")
        return manifest

    def reset(self) -> None:
        """Back to version 1, with version 2 gone from the host."""
        self.variables = {}
        code, output = self.play("rollout", "1")
        assert code == 0, output
        self.on(f"rm -rf {GOLDEN}/2 {GOLDEN}/.2.partial {GOLDEN}/previous")


@pytest.fixture(scope="module")
def fleet(provisioned, tmp_path_factory):
    fleet = Fleet(provisioned, tmp_path_factory.mktemp("chaos"))
    for version in ("1", "2"):
        code, output = fleet.play("golden", version)
        assert code == 0, output
    fleet.digest = fleet.on(f"sha256sum <{GOLDEN}/1/checkpoint.tar")
    yield fleet
    fleet.play("teardown", "1")
    width = max(map(len, FAULTS))
    print("\n" + "\n".join(f"{name:{width}}  {came}" for name, came in REPORT))
    lost = sum(came == "lost" for _name, came in REPORT)
    print(f"{len(REPORT)} faults tried, {len(REPORT) - lost} survived, {lost} lost")


def leftovers(fleet) -> str:
    """What a run may not leave: containers, mounts, frozen groups, CRIU's tables, temporary files, the lock."""
    return fleet.on(
        "podman ps --all --format '{{.Names}}' | grep -vx llama; findmnt -rno TARGET | grep -i -e warmstart-[0-9] -e criu;"
        "grep -lx 1 $(find /sys/fs/cgroup -name cgroup.freeze) 2>/dev/null; nft list tables | grep -i criu;"
        f"find {STORE} /run/gpufleet-warmstart -name '*.partial' ! -path '{GOLDEN}/.2.partial*'; ls -d /run/warmstart-* 2>/dev/null;"
        "ls /run/gpufleet-warmstart/rollout.lock 2>/dev/null; pgrep -x criu; true"
    )


def kill_at_restore(what: str) -> tuple[str, str]:
    """As soon as podman restores, kill `what`, which may use $p, podman's process."""
    return 'pgrep -of "^podman container restore.*--import"', what


@fault("previous", *SERVED)
def criu_killed(fleet):
    with fleet.when('pgrep -of "[c]riu swrk"', "kill -9 $p"):  # not one that is asked for its version
        yield


@fault("previous", *SERVED)
def podman_killed(fleet):
    with fleet.when(*kill_at_restore("kill -9 $p")):
        yield


@fault("previous", *SERVED, short=True)
def module_killed(fleet):
    with fleet.when(*kill_at_restore("kill -9 $(ps -o ppid= $p)")):
        yield


@fault("kept", "previous", *SERVED)
def module_killed_while_fetching(fleet):
    with fleet.when(f"ls -d {GOLDEN}/.2.partial/checkpoint.tar 2>/dev/null", "kill -9 $(pgrep -nx python3)"):
        yield


@fault("previous", "cold_start", *SERVED)
def conmon_killed(fleet):
    old = fleet.on("pgrep -x conmon")
    with fleet.when(f"pgrep -x conmon | grep -vx {old}", "kill -9 $p"):
        yield


@fault("lost", "previous", *SERVED)
def sshd_killed(fleet):
    with fleet.when(*kill_at_restore("pkill -9 -x sshd-session")):
        yield


@fault("kept")
def disk_full(fleet):
    size = int(fleet.on(f"du -sm {STORE} | cut -f1")) + 2
    fleet.on(f"mkdir /run/small; mount -t tmpfs -o size={size}m,mode=0700 tmpfs /run/small; cp -a {STORE}/. /run/small")
    fleet.on(f"mount --bind /run/small {STORE}")
    try:
        yield
    finally:
        fleet.on(f"umount {STORE} /run/small; rmdir /run/small")


@fault(*SERVED)
def archive_bit_flipped(fleet):
    assert fleet.play("rollout", "2")[0] == 0
    assert fleet.play("rollout", "1")[0] == 0
    fleet.on(f"f={GOLDEN}/2/checkpoint.tar; printf x | dd of=$f bs=1 seek=$(($(stat -c %s $f) / 2)) conv=notrunc status=none")
    yield


@fault("kept")
def manifest_edited(fleet):
    manifest = fleet.golden("2")
    kept = manifest.read_bytes()
    manifest.write_bytes(kept.replace(b'"version": "2"', b'"version": "3"'))
    try:
        yield
    finally:
        manifest.write_bytes(kept)
        fleet.on(f"rm -rf {GOLDEN}/2")


@fault("kept")
def signed_by_an_unknown_key(fleet):
    fleet.variables["warmstart_allowed_signers"] = str(fleet.keys / "theirs.allowed")
    try:
        yield
    finally:
        fleet.variables = {}


@fault("kept")
def image_tag_moved(fleet):
    fleet.on(
        "echo other >/run/other; tar -C /run -cf /run/other.tar other; podman import -q /run/other.tar localhost/other:1; rm /run/other*"
    )
    fleet.on("podman tag localhost/other:1 localhost/llama-server:1")
    try:
        yield
    finally:
        fleet.on("podman rmi --force $(podman image inspect --format '{{.Id}}' localhost/other:1)")


@fault("failed")
def port_taken(fleet):
    server = "python3 -m http.server --bind 127.0.0.1 8000 >/dev/null 2>&1 </dev/null"
    fleet.on(f"podman rm --force --time 0 llama; setsid nohup {server} & echo $! >/run/squatter")
    try:
        yield
    finally:
        fleet.on("pkill -F /run/squatter; rm /run/squatter")


@fault("kept")
def registry_down(fleet):
    fleet.variables.update(warmstart_distribute_via="registry", warmstart_distribute_location="127.0.0.1:9/golden")
    try:
        yield
    finally:
        fleet.variables = {}


@fault("lost", "previous", *SERVED)
def network_cut_for_30_seconds(fleet):
    chain = "{ type filter hook input priority 0; }"
    cut = f'nft add table inet cut; nft add chain inet cut input "{chain}"; nft add rule inet cut input iif != lo drop'
    with fleet.when(*kill_at_restore(f"{cut}; sleep 30; nft delete table inet cut")):
        yield


@fault("lost", "failed", "previous", "cold_start", *SERVED)
def host_rebooted(fleet):
    with fleet.when(*kill_at_restore("true")):
        rebooter = threading.Thread(target=reboot, args=(fleet,))
        rebooter.start()
        yield
        rebooter.join()


def reboot(fleet) -> None:
    """Restart the lab's host, a container of this machine, once podman restores there."""
    for _time in range(3000):
        with contextlib.suppress(AssertionError):
            if fleet.on("cat /run/chaos 2>/dev/null; true") == "done":
                break
        time.sleep(0.1)
    subprocess.run(["podman", "restart", "--time", "0", fleet.host], check=True, capture_output=True)


@fault(*SERVED, short=True)
def two_rollouts_at_once(fleet):
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(fleet.play, "rollout", "2")
        yield
        _code, output = second.result()
    first = fleet.output
    assert sorted("locked" in one for one in (first, output)) == [False, True], first + output
    assert "has rolled out llama 2 since" in first + output
    fleet.output = output if "locked" in first else first


@pytest.mark.parametrize("name", FAULTS if os.environ.get("CHAOS") == "full" else SHORT)
def test_fault(fleet, name):
    inject, paths = FAULTS[name]
    fleet.reset()
    REPORT.append((name, "lost"))
    with inject(fleet):
        fleet.code, fleet.output = fleet.play("rollout", "2")
    came = came_by(fleet.output, fleet.host)
    assert came in paths, fleet.output
    assert (came in SERVED) == (fleet.code == 0) or name == "two_rollouts_at_once", fleet.output
    assert fleet.on(f"sha256sum <{GOLDEN}/1/checkpoint.tar") == fleet.digest
    if came not in ("failed", "lost"):
        assert fleet.on("curl -sf http://127.0.0.1:8000/health") == '{"status":"ok"}'
        assert leftovers(fleet) == ""
    code, output = fleet.play("rollout", "2")
    assert code == 0, output
    assert came_by(output, fleet.host) in SERVED
    assert fleet.on("curl -sf http://127.0.0.1:8000/health") == '{"status":"ok"}'
    assert leftovers(fleet) == ""
    REPORT[-1] = (name, came)
