# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook benchmark on both lab hosts with real llama-servers: what it measures, what fails, and that the hosts are left as they were."""

from __future__ import annotations

import json

import pytest

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
        told = {"warmstart_server": server(), "warmstart_probe": probe, "warmstart_report_dir": str(self.folder / "report"), **variables}
        return self.lab.playbook("benchmark", told, *options)

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
        provisioned.ssh(host, f"podman rm --force --time 0 --ignore {NAME}; umount {TINY} 2>/dev/null; rm -rf {STATE} {TINY}")


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


def test_check_mode_changes_nothing(benchmark):
    code, output = benchmark.run("--check", "--limit", benchmark.lab.hosts[0])
    assert code == 0, output
    assert "x faster than cold" not in output
    assert not (benchmark.folder / "report").exists()
    assert benchmark.left(benchmark.lab.hosts[0]) == []
