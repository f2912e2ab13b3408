# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A declared inference server as a container: its cold start, timed to the first token, and its safe removal.

Touches the one container it names. Restores are in _restore.py and fall back to the cold start here.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ansible_collections.gpufleet.warmstart.plugins.module_utils._engine import apply
from ansible_collections.gpufleet.warmstart.plugins.module_utils._freeze import prepare_to_end
from ansible_collections.gpufleet.warmstart.plugins.module_utils._golden import RUN, write_atomically
from ansible_collections.gpufleet.warmstart.plugins.module_utils._gpu_method import require_cuda
from ansible_collections.gpufleet.warmstart.plugins.module_utils._podman import DECLARATION_LABEL, ENGINE_LABEL, Podman, declaration_digest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._probe import Probe
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError


def probe_container(podman: Podman, name: str, options: dict | None) -> Probe | None:
    """The probe that was asked for, which gives up early when the container ends; None where none was asked for."""
    return Probe(options, alive=Alive(podman, name)) if options else None


def cold_start(podman: Podman, name: str, server: dict, probe: Probe | None) -> dict:
    """`podman run`, then the probe. Returns container_id, probe (its result), timings in seconds, and profile.

    `profile` lists what the engine's profile added to the declaration, and why. Removes the container again if it does not
    start or never serves.
    """
    require_free_ports(published_ports(server.get("publish") or ()), probe)
    require_cuda(podman, server["image"])
    labels = {DECLARATION_LABEL: declaration_digest(server)}
    if probe:
        labels[ENGINE_LABEL] = f"{server.get('engine') or 'openai'} {probe.url}"
    complete, added = apply(server)
    started = time.monotonic()
    try:
        done = podman.start_server(name, complete, labels)
        answer = probe.run(started) if probe else {}
    except WarmstartError as error:
        if error.reason.code != "name_in_use":
            error.detail = f"{error.detail} {keep_log(podman, name)}".strip()
            remove(podman, name)
        raise
    return {
        "container_id": done.stdout.strip(),
        "probe": answer,
        "timings": probe_timings({"podman": done.seconds}, answer, started),
        "profile": added,
    }


def keep_log(podman: Podman, name: str) -> str:
    """Keep the log of a server that will be removed, and say where. It is not returned: engines log what they were called with."""
    found = podman.run("container", "logs", name, check=False)
    if found.rc != 0:
        return ""
    path = RUN / "logs" / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, found.stdout + found.stderr)
    return f"Its log is kept in {path}."


def stop(podman: Podman, name: str) -> None:
    """Stop the container; a checkpoint in place is kept."""
    container = podman.get(name)
    podman.stop(container.id, at_once=prepare_to_end(podman.runner, container))


def remove(podman: Podman, name: str) -> None:
    """Stop and remove the container, its anonymous volumes and its checkpoint in place; nothing happens where there is none."""
    container = podman.inspect(name)
    if container:
        podman.remove(container.id, at_once=prepare_to_end(podman.runner, container))


def still_serving(probe: Probe | None) -> dict:
    """Probe a server that runs already. Returns probe and timings as cold_start() does."""
    started = time.monotonic()
    answer = probe.run(started) if probe else {}
    return {"probe": answer, "timings": probe_timings({"podman": 0.0}, answer, started)}


def probe_timings(timings: dict[str, float], answer: dict, started: float) -> dict[str, float]:
    """`timings` completed by healthy (waited after the parts before it), first_token (from its request) and total.

    unpack, podman (with criu in it), resume, engine_wake, healthy and first_token add up to total.
    """
    if "healthy_after" in answer:
        before = sum(timings.get(part, 0.0) for part in ("unpack", "podman", "resume", "engine_wake"))
        timings["healthy"] = max(answer["healthy_after"] - before, 0.0)
    if answer.get("first_token") is not None:
        timings["first_token"] = answer["first_token"]
    timings["total"] = answer["healthy_after"] + timings.get("first_token", 0.0) if answer else time.monotonic() - started
    return timings


class Alive:
    """Called now and then while a probe waits: raises server_exited once the container has ended.

    The first look, a second in, asks podman for the process (tens of milliseconds); later ones only look into /proc.
    """

    def __init__(self, podman: Podman, name: str):
        self.podman, self.name, self.pid, self.since = podman, name, 0, 0.0

    def __call__(self) -> None:
        self.since = self.since or time.monotonic()
        if time.monotonic() - self.since < 1.0 or process_runs(self.pid):
            return
        container = self.podman.inspect(self.name)
        if container and not container.running:
            raise WarmstartError("server_exited", f"{self.name} ended with exit status {container.state['ExitCode']}.")
        self.pid = container.pid if container else 0


def process_runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return pid > 0 and state != "Z"


def published_ports(publish: Sequence[str]) -> list[tuple[str, int]]:
    """(address, port) of each entry that names a host port: [address:]host:container[/tcp]."""
    ports = []
    for entry in publish:
        address, protocol = entry.partition("/")[::2]
        pieces = address.rsplit(":", 2)
        if protocol in ("", "tcp") and len(pieces) > 1 and pieces[-2].isdigit():
            ports.append((pieces[0] if len(pieces) == 3 else "", int(pieces[-2])))
    return ports


def require_free_ports(ports: list[tuple[str, int]], probe: Probe | None) -> None:
    """Refuse with port_in_use if somebody already answers where the server is to listen.

    CRIU restores a listening socket with address reuse, so on the host's network a second server would go unnoticed.
    """
    wanted = [(address if address not in ("", "0.0.0.0", "::") else "127.0.0.1", port) for address, port in ports]
    if probe:
        url = urlsplit(probe.url)
        wanted.append((url.hostname, url.port or (443 if url.scheme == "https" else 80)))
    for address, port in dict.fromkeys(wanted):
        try:
            socket.create_connection((address.strip("[]"), port), timeout=1).close()
        except OSError:
            continue
        raise WarmstartError("port_in_use", f"Somebody already listens at {address}:{port}.")
