#!/usr/bin/env python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller spends on a fleet: playbook rollout against one task of ansible.builtin.ping, both on simulated hosts.

Usage: scale.py [--hosts 10 100 1000] [--forks 5 20 50] [--classes 1]. Prints a table of all runs, and of the last rollout the tasks,
the most expensive first. CPU is that of the process tree; memory is the peak of the main process, and of the whole tree with shared pages
counted once (PSS, sampled). connection/simulated.py is the wire. Works in a temporary folder; touches no host. docs/scale.md has results.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PING = [{"name": "One task", "hosts": "all", "gather_facts": False, "tasks": [{"name": "Ping", "ansible.builtin.ping": {}}]}]
# A checkpoint of 9.8 GB has this many chunks; the lab's has a few.
CHUNKS = 150


@dataclass
class Run:
    playbook: str
    hosts: int
    forks: int
    load: float
    code: int = 0
    output: str = ""
    wall: float = 0.0
    cpu: float = 0.0
    tree_peak: int = 0  # KiB
    main_peak: int = 0
    worker_peak: int = 0
    sent: int = 0
    calls: Counter = field(default_factory=Counter)
    tasks: dict = field(default_factory=dict)

    @property
    def results(self) -> int:
        return sum(row["results"] for row in self.tasks.values())

    def row(self) -> list[str]:
        each = 1000 / self.hosts
        return [
            *(self.playbook, f"{self.hosts}", f"{self.forks}", f"{self.load:.1f}"),
            *(f"{self.wall:.1f}", f"{self.wall * each:.0f}", f"{self.cpu:.1f}", f"{self.cpu * each:.0f}"),
            *(f"{self.results / self.hosts:.1f}", f"{self.cpu * 1000 / self.results:.1f}", f"{sum(self.calls.values()) / self.hosts:.1f}"),
            *(f"{self.sent / self.hosts / 1024:.0f}", f"{self.main_peak / 1024:.0f}", f"{self.tree_peak / 1024:.0f}"),
        ]


HEAD = "playbook,hosts,forks,load,wall s,ms/host,CPU s,ms/host,tasks/host,CPU ms/task,calls/host,KiB sent/host,main MiB,tree MiB".split(",")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class Fleet:
    """An inventory and a controller store in a folder, and playbooks run against them."""

    def __init__(self, folder: Path, classes: int = 1) -> None:
        self.folder = folder
        manifest = json.loads((HERE / "captures" / "manifest.json").read_text())
        archive = manifest["archive"]
        archive["chunks"] = (archive["chunks"] * CHUNKS)[:CHUNKS]
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
        for number in range(classes):
            place = folder / "golden" / "llama" / "1" / f"{manifest['class']}{number or ''}"
            place.mkdir(parents=True)
            place.joinpath("manifest.json").write_text(json.dumps(manifest))
            sign = ["ssh-keygen", "-q", "-Y", "sign", "-n", "gpufleet-warmstart", "-f", folder / "key", place / "manifest.json"]
            subprocess.run(sign, check=True, stderr=subprocess.DEVNULL)
        folder.joinpath("allowed_signers").write_text(f"fleet {(folder / 'key.pub').read_text()}")
        folder.joinpath("ping.yml").write_text(json.dumps(PING))
        self.variables = {
            "ansible_connection": "simulated",
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "warmstart_server": {
                "name": "llama",
                "image": "registry.example.com/llama-server:1",
                "command": ["llama-server", "--model", "/models/large.gguf", "--host", "0.0.0.0", "--port", "8000"],
                "volumes": ["/srv/models:/models:ro"],
                "network": "host",
            },
            "warmstart_probe": {"url": "http://127.0.0.1:8000", "first_token": True},
            "warmstart_controller_store": str(folder / "golden"),
            "warmstart_allowed_signers": str(folder / "allowed_signers"),
            "warmstart_distribute_via": "registry",
            "warmstart_distribute_location": "registry.example.com/golden",
        }

    def inventory(self, hosts: int) -> Path:
        path = self.folder / f"{hosts}.json"
        names = {f"gpu{number:04}": {"ansible_host": f"10.0.{number // 250}.{number % 250 + 1}"} for number in range(hosts)}
        path.write_text(json.dumps({"gpu_hosts": {"hosts": names, "vars": self.variables}}))
        return path

    def environment(self, forks: int) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        return {
            **ours,
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
            "ANSIBLE_CONNECTION_PLUGINS": str(HERE / "connection"),
            "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback"),
            "ANSIBLE_CALLBACKS_ENABLED": "task_times",
            "ANSIBLE_HOME": str(self.folder / "home"),
            "ANSIBLE_INVENTORY_ENABLED": "yaml",
            "ANSIBLE_FORKS": str(forks),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_NOCOLOR": "1",
            "SIMULATED_LOG": str(self.folder / "calls"),
            "TASK_TIMES": str(self.folder / "times"),
        }

    def play(self, playbook: str, hosts: int, forks: int, *options: str) -> Run:
        path = str(self.folder / "ping.yml") if playbook == "ping" else f"gpufleet.warmstart.{playbook}"
        made = Run(playbook, hosts, forks, os.getloadavg()[0])
        for name in ("calls", "times"):
            (self.folder / name).unlink(missing_ok=True)
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", self.inventory(hosts), path, *options]
        with open(self.folder / "output", "w+") as output:
            started = time.monotonic()
            process = subprocess.Popen(command, env=self.environment(forks), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            with sampled(process.pid) as sampler:
                _pid, status, usage = os.wait4(process.pid, 0)
            made.wall, made.cpu = time.monotonic() - started, usage.ru_utime + usage.ru_stime
            output.seek(0)
            made.output = output.read()
        made.code = process.returncode = os.waitstatus_to_exitcode(status)
        made.tree_peak = sampler.peak
        if made.code == 0:
            self.read(made)
        return made

    def read(self, made: Run) -> None:
        times = json.loads((self.folder / "times").read_text())
        made.tasks, made.main_peak = times["tasks"], times["main_peak_kib"]
        for line in (self.folder / "calls").read_text().splitlines():
            _host, what, sent, _received, peak = line.split()
            made.calls[what] += 1
            made.sent += int(sent)
            made.worker_peak = max(made.worker_peak, int(peak))


@contextlib.contextmanager
def sampled(pid: int):
    """The memory of a process and its children, shared pages counted once: `peak` in KiB, looked at every two seconds."""
    sampler, over = argparse.Namespace(peak=0), threading.Event()

    def watch() -> None:
        while not over.wait(2):
            sampler.peak = max(sampler.peak, sum(map(memory, tree(pid))))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sampler
    finally:
        over.set()
        thread.join()


def tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            found += [int(child) for task in Path(f"/proc/{one}/task").iterdir() for child in (task / "children").read_text().split()]
    return found


def memory(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def by_task(run: Run) -> str:
    def cost(item):
        return -(item[1]["main"] + item[1]["workers"])

    rows = []
    for name, row in sorted(run.tasks.items(), key=cost):
        name = name.removeprefix("gpufleet.warmstart.")
        cpu = (row["main"] + row["workers"]) * 1000 / max(1, row["results"])
        numbers = [f"{row[key]:.1f}" for key in ("wall", "main", "workers")]
        rows.append([name, row["action"].removeprefix("gpufleet.warmstart."), *numbers, f"{row['results']}", f"{cpu:.1f}"])
    return table(["task", "action", "wall s", "CPU s main", "CPU s workers", "results", "CPU ms/result"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[100])
    parser.add_argument("--forks", type=int, nargs="+", default=[20])
    parser.add_argument("--classes", type=int, default=1, help="golden checkpoints on the controller, one for each class of hosts")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    runs = []
    try:
        fleet = Fleet(folder, arguments.classes)
        for hosts in arguments.hosts:
            for forks in arguments.forks:
                for playbook in ("ping", "rollout"):
                    made = fleet.play(playbook, hosts, forks)
                    if made.code:
                        print(made.output[-4000:], file=sys.stderr)
                        return 1
                    runs.append(made)
                    print(" ".join(made.row()), file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder)
    print(table(HEAD, [run.row() for run in runs]))
    ping, rollout = runs[-2:]
    ratio = (rollout.cpu / rollout.results) / (ping.cpu / ping.results)
    calls = ", ".join(f"{name} {count / rollout.hosts:.2f}" for name, count in rollout.calls.most_common())
    print(f"\nA task of the rollout takes {ratio:.2f} times the CPU of the one-task playbook's.")
    print(f"A worker's peak is {rollout.worker_peak >> 10} MiB, most of it shared with the main process.")
    print(f"Calls for each host: {calls}\n")
    print(by_task(rollout))
    return 0


if __name__ == "__main__":
    sys.exit(main())
