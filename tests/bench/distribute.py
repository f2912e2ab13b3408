#!/usr/bin/env python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a golden checkpoint reaches 1, 2, 4, 8 hosts: role distribute by a registry, ansible.builtin.copy, and rsync of one archive.

Usage: distribute.py [--hosts 1 2 4 8] [--megabytes 256]. Makes a lab of its own, with docker-registry on one host more, and removes it.
Prints a table: seconds of the whole playbook, and bytes by interface counters, those that the hosts received and those that the controller
sent or received. The archive is synthetic: a third each of zero pages, of text, and of bf16 weights. Three versions: the first, one with a
tenth of its pages changed in one stretch, one with a tenth changed all over. Copy knows no versions, so it copies the first one only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
from labtool import ROOT, Lab, run_lab

NAME = os.environ.get("WSTEST", "wsbench") + "fleet"
FOLDER = ROOT / "build" / NAME
STORE = "/var/lib/gpufleet-warmstart"
REGISTRY = "version: 0.1\nstorage: {filesystem: {rootdirectory: /srv/registry}}\nhttp: {addr: '0.0.0.0:5000'}\n"
VERSIONS = {"1": "first version", "2": "a tenth of the pages changed, in one stretch", "3": "a tenth changed, all over"}
# argv: folder, version, megabytes. The same everywhere, from the same seeds.
BAKE = r"""
import hashlib, json, os, random, sys
folder, version, size = sys.argv[1], sys.argv[2], int(sys.argv[3]) << 20
os.makedirs(folder, mode=0o700, exist_ok=True)
exponents = bytes((121 + min(5, (value * value) >> 13)) & 255 for value in range(256))
words = [random.Random(n).randbytes(6).hex().encode()[: 3 + n % 9] for n in range(4000)]
count, digests = size // 4096, []
def changed(page):
    if version == "2":
        return count // 4 <= page < count // 4 + count // 10
    return version == "3" and page % 10 == 3
with open(folder + "/checkpoint.tar", "wb") as file:
    digest = hashlib.sha256()
    for page in range(count):
        source = random.Random(page + (count * int(version) if changed(page) else 0))
        kind = page // 256 % 3
        if changed(page) or kind == 2:
            data = bytearray(4096)
            data[0::2] = source.randbytes(2048)
            data[1::2] = source.randbytes(2048).translate(exponents)
        elif kind == 1:
            data = b" ".join(source.choices(words, k=600))[:4096].ljust(4096)
        else:
            data = bytes(4096)
        file.write(data)
        digest.update(data)
        if page % 16384 == 16383 or page == count - 1:
            digests.append(digest.hexdigest())
            digest = hashlib.sha256()
archive = {"file": "checkpoint.tar", "size": size, "chunk_size": 64 << 20, "chunks": digests}
with open(folder + "/manifest.json", "w") as file:
    json.dump({"schema": 2, "archive": archive, "version": version}, file)
"""


class Bench:
    def __init__(self, lab: Lab, megabytes: int) -> None:
        self.lab, self.megabytes = lab, megabytes
        self.server, *self.hosts = lab.hosts
        self.addresses = {name: lab._addresses[name]["ansible_host"] for name in lab.hosts}
        self.store = lab.folder / "golden" / "bench"
        network = json.loads(subprocess.run(["podman", "network", "inspect", NAME], capture_output=True, text=True, check=True).stdout)[0]
        self.bridge = Path("/sys/class/net", network["network_interface"], "statistics")

    def play(self, hosts: list[str], *tasks: dict, **variables) -> tuple[float, str]:
        """Seconds of the whole playbook, and what it printed."""
        path = self.lab.folder / "bench.yml"
        path.write_text(json.dumps([{"hosts": ",".join(hosts), "gather_facts": False, "tasks": tasks}]))
        started = time.monotonic()
        code, output = self.lab.playbook(str(path), variables, "--forks", str(len(hosts)))
        if code:
            raise SystemExit(output)
        return time.monotonic() - started, output

    def prepare(self) -> None:
        tools = ["oras", "rsync", "zstd", "python3-httpx"]
        self.play(self.lab.hosts, {"ansible.builtin.apt": {"name": tools, "update_cache": True}})
        bake = {
            "ansible.builtin.command": {
                "argv": ["python3", "-c", BAKE, STORE + "/golden/bench/{{ item }}", "{{ item }}", str(self.megabytes)]
            }
        }
        serve = "cat >/srv/registry.yml; setsid docker-registry serve /srv/registry.yml >/srv/registry.log 2>&1 </dev/null &"
        self.play(
            [self.server],
            {"ansible.builtin.apt": {"name": "docker-registry"}},
            {"ansible.builtin.shell": {"cmd": serve, "stdin": REGISTRY}},
            {**bake, "loop": list(VERSIONS)},
        )
        for version in VERSIONS:
            subprocess.run([sys.executable, "-c", BAKE, str(self.store / version), version, str(self.megabytes)], check=True)

    def role(self, entry: str, hosts: list[str], version: str) -> float:
        include = {"ansible.builtin.include_role": {"name": "gpufleet.warmstart.distribute", "tasks_from": f"{entry}.yml"}}
        location = f"http://{self.addresses[self.server]}:5000/golden"
        words = {"distribute_via": "registry", "distribute_location": location, "distribute_name": "bench", "distribute_version": version}
        return self.play(hosts, include, **words)[0]

    def registry(self, hosts: list[str], version: str) -> float:
        return self.role("main", hosts, version)

    def copy(self, hosts: list[str], version: str) -> float:
        files = {"src": f"{self.store / version}/", "dest": f"{STORE}/golden/bench/{version}/", "mode": "0600", "directory_mode": "0700"}
        return self.play(hosts, {"ansible.builtin.copy": files})[0]

    def rsync(self, hosts: list[str], version: str) -> float:
        """What ansible.posix.synchronize would run. Later versions start from a copy of the first, so that rsync sends differences only."""
        ssh = f"ssh -i {self.lab.folder}/id_ed25519 -o UserKnownHostsFile={self.lab.folder}/known_hosts"
        target = f"root@{{{{ ansible_host }}}}:{STORE}/golden/bench/{version}/"
        argv = ["rsync", "--archive", "--inplace", "--no-whole-file", "--rsh", ssh, f"{self.store / version}/", target]
        if version != "1":
            self.play(
                hosts, {"ansible.builtin.command": {"argv": ["cp", "-r", f"{STORE}/golden/bench/1", f"{STORE}/golden/bench/{version}"]}}
            )
        before = {"ansible.builtin.file": {"path": f"{STORE}/golden/bench", "state": "directory", "mode": "0700"}}
        self.play(hosts, before)
        return self.play(hosts, {"ansible.builtin.command": {"argv": argv}, "delegate_to": "localhost"})[0]

    def clean(self, hosts: list[str], *versions: str) -> None:
        paths = " ".join(f"{STORE}/golden/bench/{version}" for version in versions)
        self.play(hosts, {"ansible.builtin.shell": {"cmd": f"rm -rf {paths}; sync"}})

    def received(self, hosts: list[str]) -> int:
        return sum(int(self.lab.ssh(host, "cat /sys/class/net/eth0/statistics/rx_bytes").stdout) for host in hosts)

    def registered(self) -> int:
        return int(self.lab.ssh(self.server, "mkdir -p /srv/registry; du -sb /srv/registry").stdout.split()[0])

    def controller(self) -> int:
        """The bridge counts what the controller itself sends and receives, not what passes between hosts."""
        return sum(int((self.bridge / name).read_text()) for name in ("rx_bytes", "tx_bytes"))

    def row(self, method: str, count: int, version: str) -> str:
        hosts = self.hosts[:count]
        before = (self.received(hosts), self.controller())
        seconds = getattr(self, method)(hosts, version)
        controller, received = self.controller() - before[1], self.received(hosts) - before[0]
        wanted = " ".join(f"{STORE}/golden/bench/{version}/{name}" for name in ("checkpoint.tar", "manifest.json"))
        for host in hosts:
            self.lab.ssh(host, f"stat {wanted}")
        return f"| {method} | {VERSIONS[version]} | {count} | {seconds:.1f} | {received / 1e6:.0f} | {controller / 1e6:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--megabytes", type=int, default=256)
    options = parser.parse_args()
    if not shutil.which("rsync"):
        raise SystemExit("distribute.py: rsync is needed on this machine: apt-get install rsync")
    count = max(options.hosts) + 1
    try:
        done = run_lab("present", NAME, FOLDER, lab_hosts=count)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        with Lab(FOLDER, [f"{NAME}-{number}" for number in range(1, count + 1)]) as lab:
            bench = Bench(lab, options.megabytes)
            bench.prepare()
            for version in VERSIONS:
                before, seconds = bench.registered(), bench.role("publish", [bench.server], version)
                print(f"published {VERSIONS[version]}: {seconds:.1f} s, {(bench.registered() - before) / 1e6:.0f} MB", flush=True)
            print(
                "| way | what | hosts | seconds | MB that the hosts received | MB of the controller |\n|---|---|---|---|---|---|",
                flush=True,
            )
            for hosts in options.hosts:
                for method in ("registry", "rsync", "copy"):
                    for version in VERSIONS if method != "copy" else ["1"]:
                        print(bench.row(method, hosts, version), flush=True)
                        if version != "1":
                            bench.clean(bench.hosts[:hosts], version)
                    bench.clean(bench.hosts[:hosts], *VERSIONS)
    finally:
        run_lab("absent", NAME, FOLDER)


if __name__ == "__main__":
    main()
