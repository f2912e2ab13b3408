# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook benchmark on both lab hosts with real llama-servers: what it measures, what fails, and that the hosts are left as they were."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest
from labtool import BIN, ROOT, environment

NAME, PORT = "test-benchmark", 18501
STATE, TINY = "/var/lib/test-benchmark-state", "/var/lib/test-benchmark-tiny"
# Counts its starts and ends at once at the third.
THIRD_FAILS = 'n=$(($(cat /state/n 2>/dev/null || echo 0) + 1)); echo $n > /state/n; [ $n != 3 ] || exit 3; exec "$@"'
# A server with a client: it cannot be frozen without tcp_established.
WITH_CLIENT = (
    "import socket, time; s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname()); time.sleep(9999)"
)
METHODS = ["cold", "restore_in_place", "restore_archive"]


def server(*command: str) -> dict:
    options = ["--model", "/models/small.gguf", "--host", "127.0.0.1", "--port", str(PORT), "--ctx-size", "512", "--parallel", "1"]
    return {
        "name": NAME,
        "image": "localhost/llama-server:1",
        "command": [*command, "llama-server", *options],
        "volumes": ["/srv/models:/models:ro", f"{STATE}:/state"],
        "network": "host",
    }


class Benchmark:
    """The playbook with this module's server, and what is on the hosts beside it."""

    def __init__(self, lab, folder):
        self.lab, self.folder = lab, folder

    def run(self, *options: str, **variables) -> tuple[int, str]:
        probe = {"url": f"http://127.0.0.1:{PORT}", "timeout": 60}
        told = {"warmstart_server": server(), "warmstart_probe": probe, "warmstart_report_dir": str(self.folder / "report")}
        return self.lab.playbook("benchmark", {**told, "benchmark_warmup": 0, "benchmark_token_requests": 0, **variables}, *options)

    def report(self) -> dict:
        return json.loads((self.folder / "report" / "report.json").read_text())

    def left(self, host: str) -> list[str]:
        """Containers and files of this module: PID, what CRIU or podman put beside it, archives."""
        shown = "podman ps --all --noheading --filter name=test-benchmark --format '{{.Names}} {{.ID}} {{.Status}}' | sed 's/ Up .*/ up/'"
        files = "find /var/lib/gpufleet-warmstart /var/lib/containers/storage/overlay-containers -name 'checkpoint*' -o -name '*benchmark*'"
        return self.lab.ssh(host, f"{shown}; {files}").stdout.splitlines()


@pytest.fixture(scope="module")
def clean(provisioned):
    yield provisioned
    for host in provisioned.hosts:
        provisioned.ssh(
            host, f"podman rm --force --time 0 --ignore {NAME}; while umount {TINY} 2>/dev/null; do :; done; rm -rf {STATE} {TINY}"
        )


@pytest.fixture
def benchmark(clean, tmp_path):
    for host in clean.hosts:
        clean.ssh(host, f"podman rm --force --time 0 --ignore {NAME}; rm -rf {STATE}; mkdir {STATE}")
    return Benchmark(clean, tmp_path)


def test_measures_every_method_and_leaves_the_hosts_as_they_were(benchmark):
    lab, (first, second) = benchmark.lab, benchmark.lab.hosts
    running = {"name": NAME, "server": server(), "probe": {"url": f"http://127.0.0.1:{PORT}", "timeout": 60}}
    assert lab.ansible("gpufleet.warmstart.podman_server", running, first).get("container_id")
    before = [benchmark.left(host) for host in lab.hosts]

    # Starts: one each to be frozen in place and archived, then the two cold ones, of which the first fails.
    code, output = benchmark.run(benchmark_iterations=2, warmstart_server=server("sh", "-c", THIRD_FAILS, "sh"))

    assert code == 0, output
    assert [benchmark.left(host) for host in lab.hosts] == before
    assert before[0][0].endswith(" up")
    assert before[1] == []
    report = benchmark.report()
    assert set(report["hosts"]) == {first, second}
    assert report["hosts"][first]["criu"] in lab.ssh(first, "criu --version").stdout
    assert report["hosts"][first]["kernel"] == lab.ssh(first, "uname -r").stdout.strip()
    for host in lab.hosts:
        runs = [run for run in report["runs"] if run["host"] == host]
        assert [(run["method"], run["iteration"]) for run in runs] == [(method, number) for number in (1, 2) for method in METHODS]
        assert [run.get("reason") for run in runs] == ["server_exited", None, None, None, None, None]
        for run in runs[1:]:
            seconds = run["seconds"]
            assert run["ok"]
            assert seconds["total"] >= seconds["podman"] + seconds["healthy"] + seconds["first_token"] - 0.001
            assert (seconds["criu"] is None) == (run["method"] == "cold")
    summary = report["summary"]
    assert {method: (entry["n"], entry["failed"]) for method, entry in summary.items()} == {
        "cold": (4, 2),
        "restore_in_place": (4, 0),
        "restore_archive": (4, 0),
    }
    assert "x faster than cold" in output
    assert f"{summary['restore_in_place']['speedup_over_cold']:.2f}" in output


def test_a_method_that_cannot_be_prepared_and_a_server_that_cannot_be_frozen(benchmark):
    lab, (first, second) = benchmark.lab, benchmark.lab.hosts
    lab.ssh(first, f'podman run --detach --name {NAME} localhost/llama-server:1 python3 -c "{WITH_CLIENT}"')
    lab.ssh(second, f"mkdir -p {TINY} && mount -t tmpfs -o size=1m tmpfs {TINY}")
    pid = lab.ssh(first, f"podman container inspect --format '{{{{.State.Pid}}}}' {NAME}").stdout
    before = benchmark.left(first)

    code, output = benchmark.run(benchmark_iterations=1, benchmark_store=TINY)

    assert code == 2, output
    reasons = {(run["host"], run["method"]): run.get("reason") for run in benchmark.report()["runs"]}
    assert reasons == {
        **{(first, method): "tcp_established" for method in METHODS},
        (second, "cold"): None,
        (second, "restore_in_place"): None,
        (second, "restore_archive"): "disk_full",
    }
    assert lab.ssh(first, f"podman container inspect --format '{{{{.State.Pid}}}}' {NAME}").stdout == pid
    assert benchmark.left(first) == before
    assert benchmark.left(second) == []
    assert lab.ssh(second, f"ls {TINY}").stdout == ""


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"benchmark_methods": ["cold", "lukewarm"]}, "lukewarm"),
        ({"benchmark_iterations": 0}, "benchmark_iterations is 0: it must be 1 or more."),
        (
            {"benchmark_methods": [{"name": "x", "method": "restore_in_place", "restore": {"thb": "always"}}]},
            "'x', restore: there is no thb",
        ),
        ({"benchmark_fail_if": ["restore_archive.p95 >"]}, "is not METHOD.FIELD OPERATOR NUMBER"),
        ({"benchmark_probe": {"url": "http://127.0.0.1:18501", "interval": 0}}, "interval"),
    ],
)
def test_bad_input_is_refused_before_anything_is_touched(benchmark, variables, says):
    lab, first = benchmark.lab, benchmark.lab.hosts[0]
    lab.ssh(first, f"podman run --detach --name {NAME} localhost/llama-server:1 sleep 9999")
    before = benchmark.left(first)
    code, output = benchmark.run(**variables)
    assert code == 2, output
    assert says in output
    assert benchmark.left(first) == before
    assert '"podman", "run"' not in output


def test_an_env_file_of_the_seed_scripts_is_taken_as_it_is(benchmark):
    lab, (_first, host) = benchmark.lab, benchmark.lab.hosts
    env = benchmark.folder / ".env"
    env.write_text(f"MODEL_ID=Qwen/Qwen2-1.5B-Instruct  # the model\nCONT_NAME={NAME}-env\nAPI_PORT={PORT + 1}\nCHECKPOINT_DIR={STATE}\n")
    declared = server()
    declared.pop("name")
    declared["command"] = ["{{ warmstart_env.API_PORT }}" if word == str(PORT) else word for word in declared["command"]]
    declared["command"] += ["--alias", "{{ warmstart_env.MODEL_ID }}"]
    told = {"warmstart_env_file": str(env), "benchmark_methods": ["cold", "restore_archive"], "benchmark_iterations": 1}
    # As in an inventory, where CONT_NAME and the port are for the file to say; -e would win over it.
    inventory = benchmark.folder / "more.yml"
    inventory.write_text(json.dumps({"gpu_hosts": {"vars": {"warmstart_server": declared, "warmstart_probe": {"timeout": 60}}}}))
    told |= {"warmstart_report_dir": str(benchmark.folder / "report"), "benchmark_warmup": 0, "benchmark_token_requests": 0}
    code, output = lab.playbook("benchmark", told, "-i", str(inventory), "--limit", host)
    assert code == 0, output
    runs = {run["method"]: run for run in benchmark.report()["runs"]}
    assert [run["ok"] for run in runs.values()] == [True, True]
    assert runs["cold"]["seconds"]["first_token"] > 0
    assert f"item={STATE}/{NAME}-env-benchmark" in output  # where its archive was
    assert benchmark.left(host) == []


MATRIX = [
    "cold",
    {"name": "archive_zstd_tmpfs", "method": "restore_archive", "store": TINY, "checkpoint": {"compress": "zstd"}, "page_cache": "cold"},
    {"name": "in_place_no_huge_pages", "method": "restore_in_place", "restore": {"thp": "unchanged", "tcp_close": True}},
    {"name": "in_place_own_criu", "method": "restore_in_place", "restore": {"criu_path": f"{STATE}/criu", "ignore_static_ip": True}},
    {"name": "in_place_ignore_rootfs", "method": "restore_in_place", "restore": {"ignore_rootfs": True}},
    "checkpoint",
]


def test_a_matrix_that_is_interrupted_goes_on_where_it_was(benchmark):
    """On one host: what works, what is refused and why, and that a second run repeats nothing of the first."""
    lab, (_first, host) = benchmark.lab, benchmark.lab.hosts
    lab.ssh(host, f"mkdir -p {TINY}; mount -t tmpfs -o size=400m tmpfs {TINY}; cp $(command -v criu) {STATE}/criu")
    told = {"benchmark_methods": MATRIX, "benchmark_iterations": 1, "benchmark_warmup": 0, "benchmark_token_requests": 2}
    journal = benchmark.folder / "report" / "runs" / f"{host}.jsonl"

    # Interrupted like by Ctrl-C, once the first methods are there.
    probe = {"url": f"http://127.0.0.1:{PORT}", "timeout": 60, "first_token": True, "max_tokens": 8}
    variables = {"warmstart_server": server(), "warmstart_probe": probe, "warmstart_report_dir": str(benchmark.folder / "report"), **told}
    command = [BIN / "ansible-playbook", "-i", lab.inventory, "gpufleet.warmstart.benchmark", "-e", json.dumps(variables), "--limit", host]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True) as running:
        while running.poll() is None and (not journal.exists() or journal.read_text().count('"row"') < 2):
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGINT)
        running.communicate(timeout=60)
    before = [line for line in journal.read_text().splitlines() if '"row"' in line]
    assert 2 <= len(before) < 6

    code, output = benchmark.run("--limit", host, warmstart_probe=probe, benchmark_resume=True, benchmark_fail_if=["*.failed > 0"], **told)

    assert code == 2, output
    assert "*.failed > 0: in_place_ignore_rootfs.failed is 1." in output
    assert [line for line in journal.read_text().splitlines() if '"row"' in line][: len(before)] == before
    assert journal.read_text().count('"row"') == len(MATRIX)
    assert f"{host}: cold iteration" not in output
    assert f"{host}: checkpoint iteration 1: " in output
    assert f"{len(MATRIX)} of {len(MATRIX)} done" in output
    runs = {run["method"]: run for run in benchmark.report()["runs"]}
    assert {name: run.get("reason") for name, run in runs.items() if not run["ok"]} == {"in_place_ignore_rootfs": "bad_input"}
    assert "ignore_rootfs needs archive" in runs["in_place_ignore_rootfs"]["msg"]
    assert runs["checkpoint"]["bytes"]["pages"] > 1 << 20
    assert runs["checkpoint"]["seconds"]["verify"] > 0
    for name in ("archive_zstd_tmpfs", "in_place_no_huge_pages", "in_place_own_criu"):
        latency = runs[name]["token_latency"]
        assert 0 < latency["after"] < 1
        assert 0 < latency["before"] < 1
        assert len(runs[name]["load"]) == 3
    assert {taken["name"] for taken in benchmark.report()["checkpoints"]} == {"archive", "in-place", "checkpoint"}
    assert (benchmark.folder / "report" / "report.html").is_file()
    assert benchmark.left(host) == []
    assert lab.ssh(host, f"ls {TINY}").stdout == ""


def test_check_mode_changes_nothing(benchmark):
    code, output = benchmark.run("--check", "--limit", benchmark.lab.hosts[0])
    assert code == 0, output
    assert "x faster than cold" not in output
    assert not (benchmark.folder / "report").exists()
    assert benchmark.left(benchmark.lab.hosts[0]) == []
