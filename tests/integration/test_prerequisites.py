# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role prerequisites on a bare host of its own: check mode, the real thing, again, and hosts that cannot be made ready.

Makes a lab of one host beside the one of fixture `lab`, and removes it. The tests run in the order in which they stand.
"""

from __future__ import annotations

import json
import os
import re

import pytest
from labtool import ROOT, Lab, run_lab

PROFILE = "/etc/gpufleet-warmstart/seccomp-no-io-uring.json"
# Prints the errno of io_uring_setup (425 on every architecture): 38 is ENOSYS.
IO_URING = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); libc.syscall(425, 1, 0); print(ctypes.get_errno())"
MEMORY = {"prerequisites_tmpfs_store": "/mnt/checkpoint-ram", "prerequisites_tmpfs_size": "64m"}


@pytest.fixture(scope="module")
def bare():
    """A lab of one host without criu."""
    name = os.environ.get("WSTEST", "wstest") + "bare"
    folder = ROOT / "build" / name
    try:
        done = run_lab("present", name, folder, lab_hosts=1)
        assert done.returncode == 0, done.stdout + done.stderr
        with Lab(folder, [f"{name}-1"]) as made:
            yield made
    finally:
        done = run_lab("absent", name, folder)
        assert done.returncode == 0, done.stdout + done.stderr


def provision(lab, *options, **variables):
    return lab.playbook("provision", variables, *options)


def changed(output):
    return int(re.search(r"changed=(\d+)", output).group(1))


def on_host(lab, command):
    return lab.ssh(lab.hosts[0], command).stdout.strip()


def leftovers(lab):
    """Containers, and images other than the lab's own."""
    return on_host(lab, "podman ps --all --quiet; podman images --format '{{.Repository}}' | grep -v llama-server || true")


def test_check_mode_on_a_bare_host(bare):
    code, output = provision(bare, "--check", "--diff")
    assert code == 0, output
    assert "+ghost-limit 1G" in output
    assert "libcriu2" in output
    assert on_host(bare, "command -v criu; ls -d /etc/criu /etc/gpufleet-warmstart /var/lib/gpufleet-warmstart 2>/dev/null; true") == ""


def test_bare_host_is_refused_without_installing(bare):
    code, output = provision(bare, "--tags", "prerequisites_verify", prerequisites_install=False)
    assert code != 0
    assert "criu_missing" in output or "httpx" in output, output


def test_provision(bare):
    on_host(bare, "mkdir /etc/criu && echo 'ghost-fiemap # by hand' > /etc/criu/default.conf")
    code, output = provision(bare, **MEMORY)
    assert code == 0, output
    assert leftovers(bare) == ""
    assert on_host(bare, "stat --format %a /var/lib/gpufleet-warmstart /mnt/checkpoint-ram").split() == ["700", "700"]
    assert on_host(bare, "findmnt --noheadings --output FSTYPE,SIZE /mnt/checkpoint-ram").split() == ["tmpfs", "64M"]
    options = on_host(bare, "grep --no-filename --invert-match '^#' /etc/criu/default.conf /etc/criu/crun.conf").splitlines()
    own = ["ghost-fiemap # by hand"]
    assert options == [*own, "ghost-limit 1G", "network-lock nftables", "timeout 300", "link-remap", "link-remap", "file-locks"]
    assert on_host(bare, "cmp /etc/criu/crun.conf /etc/criu/runc.conf && echo same") == "same"


def test_second_run_changes_nothing(bare):
    code, output = provision(bare, **MEMORY)
    assert code == 0, output
    assert changed(output) == 0, output


def test_memory_store_is_resized(bare):
    code, output = provision(bare, "--tags", "prerequisites_configure", **{**MEMORY, "prerequisites_tmpfs_size": "96m"})
    assert code == 0, output
    assert on_host(bare, "findmnt --noheadings --output SIZE /mnt/checkpoint-ram") == "96M"


def test_seccomp_profile_answers_enosys_to_io_uring(bare):
    ours = json.loads(on_host(bare, f"cat {PROFILE}"))
    podmans = json.loads(on_host(bare, "cat /usr/share/containers/seccomp.json"))
    rules = [rule for rule in ours["syscalls"] if any(name.startswith("io_uring") for name in rule["names"])]
    assert [(rule["action"], rule["errnoRet"], len(rule["names"])) for rule in rules] == [("SCMP_ACT_ERRNO", 38, 3)]
    assert {key: value for key, value in ours.items() if key != "syscalls"} == {
        key: value for key, value in podmans.items() if key != "syscalls"
    }
    assert len(ours["syscalls"]) == len(podmans["syscalls"]) + 1
    run = f"podman run --rm --network none --security-opt seccomp={PROFILE} --volume /usr:/usr:ro localhost/llama-server:1"
    assert on_host(bare, f'{run} python3 -c "{IO_URING}"') == "38"


def test_canary_finds_what_criu_check_cannot(bare):
    # Only the runtime reads this file, so `criu check` is content.
    code, output = provision(bare, prerequisites_criu_runtime_config={"nosuch": True})
    assert code != 0
    assert "Checkpoint it" in output.split("fatal:")[0].rsplit("TASK", 1)[1], output
    assert leftovers(bare) == ""


def test_host_without_criu_is_refused_with_the_fix(bare):
    on_host(bare, "mv /usr/sbin/criu /usr/sbin/criu.hidden")
    try:
        code, output = provision(bare, "--tags", "prerequisites_verify", prerequisites_install=False)
    finally:
        on_host(bare, "mv /usr/sbin/criu.hidden /usr/sbin/criu")
    assert code != 0
    assert "criu_missing: criu was not found on this host." in output, output
    assert leftovers(bare) == ""


def test_unreachable_ceiling_of_open_files_is_lowered(bare):
    # In check mode only: fs.nr_open belongs to the whole machine, not to this host.
    keys = "-o HostKey=/etc/lab/host_key -o AuthorizedKeysFile=/etc/lab/authorized_keys"
    on_host(bare, f"bash -c 'ulimit -n 4096; /usr/sbin/sshd -p 2299 {keys}'")
    other = {"ansible_port": 2299, "ansible_control_path": "none", "ansible_ssh_extra_args": "-o StrictHostKeyChecking=no"}
    code, output = provision(bare, "--check", "--diff", "--tags", "prerequisites_verify", **other)
    assert code == 0, output
    assert "+fs.nr_open = 4096" in output
    assert on_host(bare, "ls /etc/sysctl.d/60-gpufleet-warmstart.conf 2>/dev/null || echo none") == "none"
