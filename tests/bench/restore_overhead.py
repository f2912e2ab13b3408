#!/usr/bin/env python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Ansible adds to a restore, as ratios in one run on a lab host: `make bench` runs it and prints one table.

podman_restore's own total, and its task's wall time, over the same `podman container restore` and curl loop by hand, in turn; the
probe's latency (probe_latency.py); cold start over the restores (playbook benchmark). Exits with 1 if a goal is missed.
Works in containers NAME-bench and NAME-benchmark* on the first host of the inventory, and removes them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

# As anybody would write it, with the least that it can cost: told NAME, URL and the request's body; prints seconds.
BY_HAND = r"""
started=$EPOCHREALTIME
podman container restore --keep "$0" > /dev/null || exit
until curl -sf -o /dev/null "$1/health"; do sleep 0.01; done
ask() { curl -sfN -H 'Content-Type: application/json' -d "$2" "$1/v1/completions"; }
while read -r line; do [[ $line == data:*'"text":"'[!\"]* ]] && break; done < <(ask "$@")
ended=$EPOCHREALTIME
[[ $line == data:* ]] && echo $(( ${ended/./} - ${started/./} ))
"""
# What the probe asks for, so that the first token costs the same; few tokens, since the task waits for the last one.
REQUEST = {"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0, "stream": True}
PROBE = "{{ warmstart_probe | combine({'max_tokens': 4}) }}"
NAME = "{{ warmstart_server.name }}-bench"
OVERHEAD_LIMIT = 1.05


def tasks(rounds: int) -> list[dict]:
    """One restore by the module and one by hand per round, the order turned every round; the first round is not counted."""
    module = {"gpufleet.warmstart.podman_restore": {"name": NAME, "probe": PROBE}, "register": "by_module"}
    hand = {
        "ansible.builtin.command": {"argv": ["bash", "-c", BY_HAND, NAME, "{{ warmstart_probe.url }}", json.dumps(REQUEST)]},
        "register": "by_hand",
    }
    stop = {"gpufleet.warmstart.podman_server": {"name": NAME, "state": "stopped"}}
    keep = {"ansible.builtin.set_fact": {"seen": "{{ seen | default([]) + [[by_module.timings.total, by_hand.stdout | int / 1000000]] }}"}}
    made = []
    for number in range(rounds + 1):
        pair = [{"name": f"module {number}", **module}, stop, {"name": f"hand {number}", **hand}, stop]
        made += [*(pair if number % 2 else pair[2:] + pair[:2]), keep]
    return made


def playbook(rounds: int, results: Path) -> list[dict]:
    server = {"name": NAME, "server": "{{ warmstart_server }}", "probe": PROBE}
    remove = {"gpufleet.warmstart.podman_server": {"name": NAME, "state": "absent"}}
    first = {"gpufleet.warmstart.podman_server": server}
    freeze = {"gpufleet.warmstart.podman_checkpoint": {"name": NAME}}
    keep = {"ansible.builtin.copy": {"content": "{{ seen | to_json }}", "dest": str(results), "mode": "0600"}, "delegate_to": "localhost"}
    block = {"block": [remove, first, freeze, *tasks(rounds), {**keep, "become": False}], "always": [remove]}
    return [{"hosts": "{{ groups['all'] | first }}", "become": True, "gather_facts": False, "tasks": [block]}]


def ansible(inventory: str, *arguments: str, **environment: str) -> None:
    done = subprocess.run(
        ["ansible-playbook", "-i", inventory, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}")


def task_seconds(folder: Path) -> dict[str, float]:
    """Wall time of each task by its name, as the junit callback saw it on the controller."""
    cases = [case for report in folder.glob("*.xml") for case in ElementTree.parse(report).iter("testcase")]
    return {case.get("name").rpartition(": ")[2]: float(case.get("time")) for case in cases}


def overhead(inventory: str, rounds: int) -> dict[str, float]:
    """Medians over the rounds: seconds by hand, and in each round the module's total and the whole task over that."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "bench.yml").write_text(json.dumps(playbook(rounds, folder / "seen.json")))
        told = {
            "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.junit",
            "JUNIT_OUTPUT_DIR": str(folder / "junit"),
            "JUNIT_HIDE_TASK_ARGUMENTS": "true",
        }
        ansible(inventory, str(folder / "bench.yml"), **told)
        seen, wall = json.loads((folder / "seen.json").read_text())[1:], task_seconds(folder / "junit")
    return {
        "hand": statistics.median(by_hand for _by_module, by_hand in seen),
        "module": statistics.median(by_module / by_hand for by_module, by_hand in seen),
        "task": statistics.median(wall[f"module {number}"] / seen[number - 1][1] for number in range(1, rounds + 1)),
    }


def speedups(inventory: str, iterations: int) -> dict[str, float]:
    """How many times faster than cold each restore is, from the benchmark's own report."""
    with tempfile.TemporaryDirectory() as folder:
        host = json.dumps({"warmstart_report_dir": folder, "benchmark_iterations": iterations})
        ansible(inventory, "gpufleet.warmstart.benchmark", "-e", host, "-e", '{"warmstart_hosts": "{{ groups[\'all\'] | first }}"}')
        summary = json.loads(Path(folder, "report.json").read_text())["summary"]
    return {method: entry["speedup_over_cold"] for method, entry in summary.items() if method != "cold"}


def probe_latency() -> dict:
    program = Path(__file__).with_name("probe_latency.py")
    done = subprocess.run([sys.executable, str(program)], stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inventory", help="of a lab; its first host is used, with warmstart_server and warmstart_probe")
    parser.add_argument("--rounds", type=int, default=10, help="restores by the module, and by hand (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=5, help="of the benchmark (default: %(default)s)")
    arguments = parser.parse_args()
    medians = overhead(arguments.inventory, arguments.rounds)
    latency = probe_latency()
    faster = speedups(arguments.inventory, arguments.iterations)
    lines = [
        ("podman container restore and curl loop by hand, s", f"{medians['hand']:.3f}", ""),
        ("podman_restore's total over the same by hand", f"{medians['module']:.3f}", f"at most {OVERHEAD_LIMIT}"),
        ("the whole Ansible task over the same by hand", f"{medians['task']:.2f}", ""),
        ("probe latency, median ms", f"{latency['probe_latency_ms']['probe']:.1f}", f"at most {latency['limit_ms']:g}"),
        ("1 s curl loop latency, median ms", f"{latency['probe_latency_ms']['1 s curl loop']:.1f}", ""),
        *((f"cold start over {method}", "-" if value is None else f"{value:.2f}", "") for method, value in faster.items()),
    ]
    print(f"{'medians of this run; ratios are of each round':50}  {'seen':>7}  goal")
    for what, seen, goal in lines:
        print(f"{what:50}  {seen:>7}  {goal}".rstrip())
    return not (medians["module"] <= OVERHEAD_LIMIT and latency["ok"])


if __name__ == "__main__":
    sys.exit(main())
