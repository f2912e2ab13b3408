# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role lab: hosts come up in seconds, nothing is left of them, and a machine that cannot carry them is told so."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from labtool import BIN, COLLECTIONS, ROOT, Lab, run, run_lab

FILES = ROOT / "roles" / "lab" / "files"
NAME = os.environ.get("WSTEST", "wstest") + "life"


def traces() -> str:
    """Everything on this machine that bears the name of this module's lab."""
    listings = [
        run("podman", "ps", "--all", "--format", "{{.Names}}").stdout,
        run("podman", "volume", "ls", "--format", "{{.Name}}").stdout,
        run("podman", "network", "ls", "--format", "{{.Name}}").stdout,
        Path("/proc/mounts").read_text(),
        "\n".join(map(str, Path("/run/gpufleet-lab").glob("*"))),
    ]
    return "\n".join(line for listing in listings for line in listing.splitlines() if NAME in line)


@pytest.fixture
def own_lab():
    """A lab of this test's own: the folder to make it in; whatever is there afterwards is removed."""
    folder = ROOT / "build" / NAME
    yield folder
    done = run_lab("absent", NAME, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not traces()


@pytest.mark.usefixtures("lab")  # so that the images are there
def test_life_of_a_lab(own_lab):
    assert not traces()
    done = run_lab("present", NAME, own_lab, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not traces()
    assert not own_lab.exists()

    started = time.monotonic()
    done = run_lab("present", NAME, own_lab)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - started < 15

    again = run_lab("present", NAME, own_lab)
    assert "changed=0 " in again.stdout, again.stdout

    hosts = Lab(own_lab, [f"{NAME}-1", f"{NAME}-2"])
    assert "VERSION_CODENAME=forky" in hosts.ssh(hosts.hosts[1], "cat /etc/os-release").stdout
    # Bare: CRIU is for role prerequisites to install, from the packages that wait in the image.
    assert hosts.ssh(hosts.hosts[0], "command -v criu", check=False).returncode != 0
    with hosts:
        result = hosts.ansible("ansible.builtin.apt", {"name": ["criu", "python3-httpx"], "update_cache": True, "cache_valid_time": 3600})
    assert result["changed"], result
    assert result["cache_updated"] is False

    assert run_lab("present", NAME, own_lab, lab_hosts=3).returncode == 0
    assert f"{NAME}-3-data" in traces()
    assert run_lab("present", NAME, own_lab, lab_hosts=1).returncode == 0
    assert f"{NAME}-1" in traces()
    assert f"{NAME}-2" not in traces()
    assert f"{NAME}-2" not in (own_lab / "inventory" / "hosts.yml").read_text()

    assert run_lab("absent", NAME, own_lab).returncode == 0
    assert not traces()
    assert not own_lab.exists()
    again = run_lab("absent", NAME, own_lab)
    assert "changed=0 " in again.stdout, again.stdout


@pytest.mark.usefixtures("lab")
def test_nothing_is_left_of_an_interrupted_start(own_lab):
    playbook = subprocess.Popen(
        [BIN / "ansible-playbook", "gpufleet.warmstart.lab", "-e", f"lab_name={NAME} lab_dir={own_lab} lab_hosts=4 lab_model=small"],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while f"{NAME}-2-data" not in traces() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(playbook.pid, signal.SIGKILL)
    playbook.wait()
    assert traces()
    assert run_lab("absent", NAME, own_lab).returncode == 0
    assert not traces()


def test_both_hosts_have_the_same_engine_and_models(lab):
    command = "podman image inspect --format {{.Id}} localhost/llama-server:1; sha256sum /srv/models/*.gguf; touch /srv/models/x"
    first, second = (lab.ssh(host, command, check=False) for host in lab.hosts)
    assert first.stdout == second.stdout
    assert first.stdout.count(".gguf") == 2
    assert "Read-only file system" in first.stderr


def test_machine_that_cannot_carry_a_lab_is_told_so():
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "/bin/sh", "-s"],
        input=(FILES / "check.sh").read_text(),
        env={"PATH": "/nowhere-with-apt:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "needs root" in done.stdout


def test_model_is_the_same_each_time_and_small(tmp_path):
    digests = set()
    for name in ("one.gguf", "two.gguf"):
        subprocess.run([sys.executable, FILES / "make_model.py", "small", tmp_path / name], check=True)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    assert (tmp_path / "one.gguf").stat().st_size < 20_000_000


def test_unknown_model_size_is_refused(tmp_path):
    done = subprocess.run([sys.executable, FILES / "make_model.py", "huge", tmp_path / "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "small|large" in done.stderr
    assert not list(tmp_path.iterdir())
