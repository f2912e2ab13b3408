# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""criu_check and criu_config on a real host: what CRIU says, and that one container's options really reach it.

Starts a container named test-criu on the first lab host, and removes it.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

MODULE = "gpufleet.warmstart.criu_check"
NAME = "test-criu"
# Holds a deleted file of 3 MiB, which CRIU dumps only if ghost-limit allows it.
GHOST = "import os, time; f = open('/tmp/f', 'wb'); f.write(bytes(3 << 20)); f.flush(); os.unlink('/tmp/f'); time.sleep(1e6)"
HOOK = "/run/test-criu-hook"

NOT_ROOT = """
- hosts: all
  gather_facts: false
  become: true
  become_method: su
  become_user: nobody
  become_flags: -s /bin/sh
  tasks:
    - gpufleet.warmstart.criu_check:
      register: told
    - ansible.builtin.assert:
        that:
          - not told.ready
          - told.reasons | map(attribute='code') is contains('not_root')
    - gpufleet.warmstart.criu_check:
        required: true
"""


@pytest.fixture(scope="module")
def host(provisioned):
    return provisioned.hosts[0]


@pytest.fixture
def ghost(lab, host):
    """Name of a container that holds a deleted file."""
    start = f'podman run --detach --replace --name {NAME} --network none localhost/llama-server:1 python3 -c "{GHOST}"'
    lab.ssh(host, f"{start} && sleep 0.5")
    yield NAME
    lab.ssh(host, f"podman rm --force --time 0 {NAME}; rm -f {HOOK}*")


def codes(result):
    return [reason["code"] for reason in result["reasons"]]


def test_ready_host(lab, host):
    arguments = {"features": ["uffd", "nsid"], "required": True}
    for check in (True, False, False):
        result = lab.ansible(MODULE, arguments, host, check=check)
        assert not result.get("failed"), result
        assert result["changed"] is False
        assert result["ready"] is True
        assert result["features"] == {"uffd": True, "nsid": True}
    assert result["config"]["/etc/criu/default.conf"]["ghost-limit"] == "1G"
    assert result["config"]["/etc/criu/crun.conf"]["file-locks"] is True
    assert result["runtimes"]["crun"] == {"path": "/usr/bin/crun", "checkpoints": True, "config_file": "/etc/criu/crun.conf"}
    assert ["/usr/sbin/criu", "check"] in result["commands"]
    assert 0 < result["timings"]["total"] < 30
    assert lab.ssh(host, "criu --version").stdout.split()[1] == result["version"]


def test_criu_absent(lab, host):
    told = lab.ansible(MODULE, {"criu_path": "/nowhere/criu"}, host)
    assert (told["ready"], codes(told), told["version"]) == (False, ["criu_missing"], "")
    failed = lab.ansible(MODULE, {"criu_path": "/nowhere/criu", "required": True}, host)
    assert failed["failed"]
    assert failed["reason"] == "criu_missing"
    assert "/nowhere/criu" in failed["msg"]


def test_unknown_feature(lab, host):
    failed = lab.ansible(MODULE, {"features": ["nosuch"]}, host)
    assert failed["failed"]
    assert failed["reason"] == "bad_input"
    assert "'nosuch'" in failed["msg"]


def test_not_root(lab, host, tmp_path):
    (tmp_path / "not_root.yml").write_text(NOT_ROOT)
    code, output = lab.playbook(str(tmp_path / "not_root.yml"), {}, "--limit", host)
    assert code != 0
    assert "failed=1" in output
    assert "Set become: true" in output, output


@pytest.fixture
def old_criu(lab, host, tmp_path):
    """Path on the host of the criu that this machine's distribution has, if it is one that cannot read Linux 6.13's vDSO."""
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 13) or not shutil.which("apt-get"):
        pytest.skip("no CRIU is known to be too old for this kernel, or no apt-get to fetch it")
    subprocess.run(["apt-get", "download", "criu=3.17*", "libnet1"], cwd=tmp_path, check=False, capture_output=True)
    packages = list(tmp_path.glob("*.deb"))
    if not any(package.name.startswith("criu_3.17") for package in packages):
        pytest.skip("this distribution has no criu 3.17")
    for package in packages:
        subprocess.run(["dpkg", "--extract", package, tmp_path / "old"], check=True)
    (library,) = (tmp_path / "old").glob("usr/lib/*/libnet.so.1")
    libraries = library.parent.relative_to(tmp_path / "old")
    (tmp_path / "old/criu").write_text(f'#!/bin/sh\nLD_LIBRARY_PATH=/opt/old/{libraries} exec /opt/old/usr/sbin/criu "$@"\n')
    (tmp_path / "old/criu").chmod(0o755)
    subprocess.run(["tar", "-C", tmp_path / "old", "-cf", tmp_path / "old.tar", "criu", "usr/sbin", libraries], check=True)
    lab.ssh(host, "mkdir -p /opt/old")
    copied = lab.ansible("ansible.builtin.unarchive", {"src": f"{tmp_path}/old.tar", "dest": "/opt/old"}, host)
    assert not copied.get("failed"), copied
    yield "/opt/old/criu"
    lab.ssh(host, "rm -r /opt/old")


def test_criu_too_old_for_the_kernel(lab, host, old_criu, ghost):
    told = lab.ansible(MODULE, {"criu_path": old_criu}, host)
    assert told["version"].startswith("3.17")
    assert told["ready"] is False
    assert codes(told)[0] == "vdso_kernel"
    failed = lab.ansible(MODULE, {"criu_path": old_criu, "required": True}, host)
    assert failed["failed"]
    assert failed["fix"] == "Install CRIU 4.1 or newer."
    # The chosen criu is the one that podman's runtime runs, too; and the container goes on.
    failed = lab.ansible("gpufleet.warmstart.podman_checkpoint", {"name": ghost, "criu_path": old_criu}, host)
    assert failed["reason"] == "vdso_kernel", failed
    assert lab.ssh(host, f"podman inspect --format '{{{{.State.Status}}}}' {ghost}").stdout.strip() == "running"


def test_hooks_run_in_checkpoint_and_restore(lab, host, ghost):
    lab.ssh(host, f"printf '#!/bin/sh\\necho $CRTOOLS_SCRIPT_ACTION >> {HOOK}.log\\n' > {HOOK} && chmod 0700 {HOOK}")
    config = {"action-script": HOOK}
    frozen = lab.ansible("gpufleet.warmstart.podman_checkpoint", {"name": ghost, "criu_config": config}, host)
    assert not frozen.get("failed"), frozen
    assert lab.ssh(host, f"cat {HOOK}.log; rm {HOOK}.log").stdout.split() == ["pre-dump", "network-lock", "post-dump"]
    restored = lab.ansible("gpufleet.warmstart.podman_restore", {"name": ghost, "criu_config": config}, host)
    assert not restored.get("failed"), restored
    ran = lab.ssh(host, f"cat {HOOK}.log").stdout.split()
    assert ran[0] == "pre-restore"
    assert {"post-restore", "post-resume"} <= set(ran)
    assert lab.ssh(host, "ls /run | grep warmstart-criu", check=False).stdout == ""


def test_one_containers_option_overrides_the_hosts(lab, host, ghost):
    failed = lab.ansible("gpufleet.warmstart.podman_checkpoint", {"name": ghost, "criu_config": {"ghost-limit": "1M"}}, host)
    assert failed["reason"] == "ghost_limit", failed
    frozen = lab.ansible("gpufleet.warmstart.podman_checkpoint", {"name": ghost}, host)
    assert not frozen.get("failed"), frozen


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tcp-established": True}, "Use the module's option tcp_established"),
        ({"link-remap": False}, "/etc/criu/crun.conf sets it for the whole host"),
        ({"ghost-limt": "1G"}, "has no option 'ghost-limt'"),
        ({"network-lock": "ipchains"}, "Invalid value for --network-lock: ipchains"),
    ],
)
def test_option_that_would_not_count_is_refused(lab, host, ghost, config, message):
    failed = lab.ansible("gpufleet.warmstart.podman_checkpoint", {"name": ghost, "criu_config": config}, host)
    assert failed["failed"]
    assert failed["reason"] == "bad_input"
    assert message in failed["msg"]
    assert lab.ssh(host, f"podman inspect --format '{{{{.State.Status}}}}' {ghost}").stdout.strip() == "running"
