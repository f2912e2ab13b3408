# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""podman as the library uses it: inspect, run, remove, checkpoint, restore, and the statistics and logs these leave.

Touches containers, always through the podman command (_command.py). What a checkpoint archive holds is read in
_archive.py; what a whole checkpoint or restore consists of is in _checkpoint.py and _restore.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime, timezone
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Result, Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

# What a server is made of: the arguments of `podman run` that a cold start needs.
SERVER_OPTIONS = {
    "name": {"type": "str"},  # lets one variable hold the name beside the rest; the modules have their own option
    "engine": {"type": "str", "choices": ["vllm", "sglang", "llama_cpp", "openai"], "default": "openai"},
    "image": {"type": "str", "required": True},
    "command": {"type": "list", "elements": "str", "default": []},
    "env": {"type": "dict", "default": {}, "no_log": True},
    "volumes": {"type": "list", "elements": "str", "default": []},
    "publish": {"type": "list", "elements": "str", "default": []},
    "devices": {"type": "list", "elements": "str", "default": []},
    "network": {"type": "str"},
    "args": {"type": "list", "elements": "str", "default": []},
}

DECLARATION_LABEL = "gpufleet.warmstart.declaration"
ENGINE_LABEL = "gpufleet.warmstart.engine"


class Container:
    """What `podman container inspect` says of one container."""

    def __init__(self, facts: dict):
        self.facts = facts
        self.id: str = facts["Id"]
        self.name: str = facts["Name"]
        self.state: dict = facts["State"]
        self.runtime: str = facts["OCIRuntime"]

    @property
    def running(self) -> bool:
        return bool(self.state["Running"])

    @property
    def pid(self) -> int:
        return int(self.state["Pid"]) if self.running else 0

    def label(self, name: str) -> str:
        return (self.facts["Config"].get("Labels") or {}).get(name, "")

    @property
    def declaration(self) -> str:
        """The digest of the declaration it was started from, or an empty string."""
        return self.label(DECLARATION_LABEL)

    @property
    def engine(self) -> tuple[str, str]:
        """Name and URL of the engine in it, as it was started; empty strings where nobody said."""
        name, _space, url = self.label(ENGINE_LABEL).partition(" ")
        return name, url

    @property
    def userdata(self) -> Path:
        """podman's folder for this container, which holds an in-place checkpoint and CRIU's logs."""
        return Path(self.facts["StaticDir"])

    @property
    def started(self) -> datetime:
        """When its processes last began to run here: started or restored, whichever is later."""
        return max(parse_time(self.state.get(key, "")) for key in ("StartedAt", "RestoredAt"))

    def has_checkpoint(self) -> bool:
        """Whether a complete checkpoint lies in place (CRIU writes inventory.img last)."""
        return (self.userdata / "checkpoint" / "inventory.img").is_file()

    def page_files(self) -> tuple[Path, ...]:
        """The memory pages of the checkpoint in place."""
        return tuple(sorted((self.userdata / "checkpoint").glob("pages-*.img")))

    def require_running(self) -> None:
        if not self.running:
            raise WarmstartError("container_not_running", f"{self.name} is {self.state['Status']}.")

    def checkpointed_since_start(self) -> bool:
        if not self.has_checkpoint():
            return False
        if not self.running:
            return bool(self.state.get("Checkpointed"))
        written = (self.userdata / "checkpoint" / "inventory.img").stat().st_mtime
        return datetime.fromtimestamp(written, timezone.utc) > self.started

    def published(self) -> list[tuple[str, int]]:
        """(address, port) on the host, an empty address meaning all, of every published TCP port."""
        bindings = (self.facts["HostConfig"].get("PortBindings") or {}).items()
        return [
            (bound.get("HostIp") or "", int(bound["HostPort"]))
            for port, hosts in bindings
            if port.endswith("/tcp")
            for bound in hosts or []
            if bound.get("HostPort")
        ]


class Podman:
    """Runs podman with one environment: `path` is the PATH under which it finds criu (see _criu.criu_environment)."""

    def __init__(self, runner: Runner, path: str | None = None):
        self.runner = runner
        self.env = {"PATH": path} if path else {}

    def run(self, *arguments: str, check: bool = True, env: dict[str, str] | None = None) -> Result:
        result = self.runner.run("podman", *arguments, check=False, env={**self.env, **(env or {})})
        if result.rc == 127:
            raise WarmstartError("podman_missing")
        if check and result.rc != 0:
            raise self.runner.failure(result)
        return result

    def inspect(self, name: str) -> Container | None:
        """The container, or None where there is none of that name."""
        result = self.run("container", "inspect", name, check=False)
        if result.rc == 0:
            return Container(json.loads(result.stdout)[0])
        if re.search(r"no such (?:container|object)", result.stderr):
            return None
        raise self.runner.failure(result)

    def get(self, name: str) -> Container:
        container = self.inspect(name)
        if container is None:
            raise WarmstartError("container_missing", f"No container is called {name}.")
        return container

    def require_image(self, name: str, image_id: str) -> None:
        """Refuse with image_missing a tag that moved, or a local image that is not here; podman pulls any other."""
        result = self.run("image", "inspect", "--format", "{{.Id}}", name, check=False)
        found = result.stdout.strip()
        if result.rc == 0 and found != image_id:
            raise WarmstartError("image_missing", f"{name} is {found[:12]} here, the checkpoint was taken with {image_id[:12]}.")
        if result.rc != 0 and name.startswith("localhost/"):
            raise WarmstartError("image_missing", f"There is no {name} ({image_id[:12]}).")

    def image_env(self, name: str) -> dict[str, str]:
        """The environment that the image sets; empty where the image is not on this host."""
        result = self.run("image", "inspect", "--format", "{{json .Config.Env}}", name, check=False)
        return dict(item.partition("=")[::2] for item in json.loads(result.stdout) or []) if result.rc == 0 else {}

    def start_server(self, name: str, server: dict, labels: dict[str, str]) -> Result:
        """`podman run` for `server` (SERVER_OPTIONS); the values of its environment stay out of argv."""
        arguments, env = run_arguments(name, server, labels)
        return self.run(*arguments, env=env)

    def names(self, pattern: str) -> list[str]:
        """The names of all containers, running or not, that match the regular expression."""
        return self.run("container", "ls", "--all", "--filter", f"name={pattern}", "--format", "{{.Names}}").stdout.split()

    def stop(self, name: str, at_once: bool = False) -> None:
        """Stop the container; `at_once` kills it without the ten seconds that it has to end by itself."""
        self.run("container", "stop", *(["--time", "0"] if at_once else []), name)

    def remove(self, name: str, at_once: bool = False) -> None:
        """Stop and remove the container with its anonymous volumes; nothing happens where there is none."""
        self.run("container", "rm", "--force", *(["--time", "0"] if at_once else []), "--ignore", "--volumes", name)

    def rename(self, name: str, new_name: str) -> None:
        self.run("container", "rename", name, new_name)

    def storage(self) -> Path:
        """Where podman keeps containers and images."""
        return Path(self.run("info", "--format", "{{.Store.GraphRoot}}").stdout.strip())

    def info(self) -> dict[str, str]:
        """Versions that a restore depends on: podman, the runtime and its version, cgroup version, kernel."""
        facts = json.loads(self.run("info", "--format", "json").stdout)
        host = facts["host"]
        runtime = re.search(r"version (\S+)", host["ociRuntime"]["version"])
        return {
            "podman": facts["version"]["Version"],
            "runtime": host["ociRuntime"]["name"],
            "runtime_version": runtime.group(1) if runtime else "",
            "cgroups": host["cgroupVersion"],
            "kernel": host["kernel"],
            "architecture": host["arch"],
            "hostname": host["hostname"],
        }


def run_arguments(name: str, server: dict, labels: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """The arguments of podman that start `server` as container `name`, and the environment to run podman with.

    `--env NAME` without a value takes it from podman's own environment, so no secret stands in argv or in the
    CreateCommand that podman keeps.
    """
    env = {key: str(value) for key, value in (server.get("env") or {}).items()}
    arguments = ["run", "--detach", "--name", name]
    for key, value in labels.items():
        arguments += ["--label", f"{key}={value}"]
    for key in env:
        arguments += ["--env", key]
    for option, values in (("--volume", "volumes"), ("--publish", "publish"), ("--device", "devices")):
        for value in server.get(values) or []:
            arguments += [option, value]
    if server.get("network"):
        arguments += ["--network", server["network"]]
    return [*arguments, *(server.get("args") or []), server["image"], *(server.get("command") or [])], env


def declaration_digest(server: dict) -> str:
    """A digest of the declared server, by which a changed declaration is noticed."""
    declared = {key: server.get(key) for key in SERVER_OPTIONS if key != "name" and server.get(key)}
    return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()[:16]


def statistics(stdout: str) -> dict[str, float]:
    """Seconds per part from what `podman container checkpoint|restore --print-stats` prints (microseconds there).

    The keys: criu (the runtime's part, CRIU included), freezing, frozen, dump, write for a checkpoint; criu, forking,
    restore for a restore. Empty where podman printed no statistics.
    """
    start = stdout.find("{")
    if start < 0:
        return {}
    try:
        printed, _end = json.JSONDecoder().raw_decode(stdout[start:])
    except ValueError:
        return {}
    container = (printed.get("container_statistics") or [{}])[0]
    names = {
        "freezing_time": "freezing",
        "frozen_time": "frozen",
        "memdump_time": "dump",
        "memwrite_time": "write",
        "forking_time": "forking",
        "restore_time": "restore",
    }
    criu = container.get("criu_statistics") or {}
    timings = {names[key]: value / 1e6 for key, value in criu.items() if key in names}
    for key in ("runtime_checkpoint_duration", "runtime_restore_duration"):
        if key in container:
            timings["criu"] = container[key] / 1e6
    return timings


def criu_errors(log: Path) -> str:
    """The lines with which CRIU's log says what went wrong; an empty string where there is no log."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(line for line in lines if re.search(r"\bError\b", line))


def parse_time(text: str) -> datetime:
    """A time as podman prints it (nine decimals, Z or an offset); the year 1 where there is none."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)$", text)
    if not match:
        return datetime.min.replace(tzinfo=timezone.utc)
    seconds, fraction, zone = match.groups()
    return datetime.fromisoformat(f"{seconds}.{(fraction or '0')[:6]:0<6}{'+00:00' if zone == 'Z' else zone}")
