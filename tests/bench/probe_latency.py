# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure how long after a server turns healthy the probe says so, beside the usual `curl` loop that sleeps 1 s.

The server is a process of its own here on 127.0.0.1, since of a real engine nobody knows the moment it turns healthy. It
begins to listen (as llama-server does) and then answers 503 until a moment told to it, drawn so that no loop is in step with it.
Prints one line of JSON after the table; exits with 1 if the probe's median is above --limit. `make bench` runs it.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import statistics
import subprocess
import sys
import time

from ansible_collections.gpufleet.warmstart.plugins.module_utils._probe import Probe

# Told: port, when to listen, when to be healthy; on the monotonic clock, which all processes of a machine share.
SERVER = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
port, listens, healthy = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        ok = time.monotonic() >= healthy
        body = b'{"status":"ok"}' if ok else b'{"error":{"message":"Loading model"}}'
        self.send_response(200 if ok else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_arguments):
        pass
time.sleep(max(0, listens - time.monotonic()))
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def by_probe(url: str) -> None:
    Probe({"url": url, "timeout": 60}).wait_healthy()


def by_shell(url: str) -> None:
    subprocess.run(["sh", "-c", 'until curl -sf -o /dev/null "$0/health"; do sleep 1; done', url], check=True)


def latency(wait, seconds: float) -> float:
    """Milliseconds from the moment the server turned healthy to the moment `wait` came back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    healthy = time.monotonic() + seconds + random.random()  # 1 s is the shell loop's step
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(port), str(healthy - 0.3), str(healthy)])
    try:
        wait(f"http://127.0.0.1:{port}")
        return (time.monotonic() - healthy) * 1000
    finally:
        server.kill()
        server.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=15, help="of each, one after the other (default: %(default)s)")
    parser.add_argument(
        "--after", type=float, default=1.0, help="seconds until the server is healthy, and up to 1 more (default: %(default)s)"
    )
    parser.add_argument("--limit", type=float, default=15.0, help="milliseconds that the probe's median may be (default: %(default)s)")
    arguments = parser.parse_args()
    ways = {"probe": by_probe, "1 s curl loop": by_shell}
    seen: dict[str, list[float]] = {name: [] for name in ways}
    Probe({"url": "http://127.0.0.1:9"})  # imports httpx, as every Probe does before its clock starts
    for _iteration in range(arguments.iterations):
        for name, wait in ways.items():
            seen[name].append(latency(wait, arguments.after))
    print(f"latency after the server turned healthy, ms, {arguments.iterations} of each")
    for name, values in seen.items():
        print(f"  {name:14} median {statistics.median(values):7.1f}   min {min(values):7.1f}   max {max(values):7.1f}")
    medians = {name: round(statistics.median(values), 2) for name, values in seen.items()}
    print(json.dumps({"probe_latency_ms": medians, "limit_ms": arguments.limit, "ok": medians["probe"] <= arguments.limit}))
    return medians["probe"] > arguments.limit


if __name__ == "__main__":
    sys.exit(main())
