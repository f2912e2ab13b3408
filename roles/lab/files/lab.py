# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab: hosts as privileged podman containers on this machine, with an address and an sshd each.

Usage: lab.py build|present|absent, see --help. Prints JSON: what it changed, and the hosts. Touches podman's containers, volumes
and networks that carry the label gpufleet.lab, the cache folder, the lab's folder and fs.nr_open; needs root.
The images' content is in images.sh and host.sh, the models' in make_model.py.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import ipaddress
import json
import resource
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUN = Path("/run/gpufleet-lab")  # what a reboot undoes anyway: the lock, SSH's control sockets, the old fs.nr_open
LABEL = "gpufleet.lab"
ENGINE_IMAGE = "localhost/llama-server:1"
NR_OPEN = Path("/proc/sys/fs/nr_open")
# For what mounts and may be interrupted: the mounts go with the process.
OWN_MOUNTS = ["unshare", "--mount", "--propagation", "private"]


def run(*argv: object, stdin=None) -> str:
    done = subprocess.run([str(word) for word in argv], stdin=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"lab.py: {' '.join(map(str, argv))}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def succeeds(*argv: object) -> bool:
    return subprocess.run([str(word) for word in argv], capture_output=True, check=False).returncode == 0


def recipe(*names: str) -> str:
    """Twelve hex digits that change when one of these files does."""
    return hashlib.sha256(b"".join((HERE / name).read_bytes() for name in names)).hexdigest()[:12]


class Shared:
    """What all labs of this machine use: two images and two models, each built once per recipe."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.host_image = f"localhost/gpufleet-lab-host:{recipe('images.sh')}"
        # A read-only store and not a `podman load` on each host: the same image ID everywhere, and nothing to copy.
        self.engine_store = cache / f"engine-{recipe('images.sh')}"
        self.models = cache / f"models-{recipe('make_model.py')}"

    def missing(self) -> list[str]:
        wanted = {
            "host image": succeeds("podman", "image", "exists", self.host_image),
            "engine image": self.engine_store.exists(),
            **{f"{size} model": (self.models / f"{size}.gguf").exists() for size in ("small", "large")},
        }
        return [name for name, there in wanted.items() if not there]

    def build(self) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor() as pool:  # one of them keeps one core busy; a machine has at least two
            for done in [pool.submit(self._build_one, *name.split()) for name in self.missing()]:
                done.result()

    def _build_one(self, kind: str, what: str) -> None:
        if what == "image":
            self._build_image(kind)
        else:
            self.models.mkdir(exist_ok=True)
            run(sys.executable, HERE / "make_model.py", kind, self.models / f"{kind}.gguf")

    def _build_image(self, kind: str) -> None:
        work = self.cache / f"building-{kind}"
        shutil.rmtree(work, ignore_errors=True)  # an interrupted run's
        work.mkdir(mode=0o700)
        root, store = work / "root", work / "store"
        run(*OWN_MOUNTS, "bash", HERE / "images.sh", kind, root)
        podman, image = ["podman"], self.host_image
        if kind == "engine":
            podman = [*OWN_MOUNTS, "podman", "--root", store, "--runroot", RUN / "store", "--storage-driver", "overlay"]
            image = ENGINE_IMAGE
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
            run(*podman, "import", "-", image, stdin=tar.stdout)
        if tar.returncode:
            raise SystemExit(f"lab.py: tar of {root}: exit {tar.returncode}")
        if kind == "engine":
            store.rename(self.engine_store)
        shutil.rmtree(work)


class Lab:
    """The hosts of one lab: containers NAME-1 ... NAME-N on the network NAME."""

    def __init__(self, name: str, folder: Path, check: bool) -> None:
        self.name = name
        self.folder = folder
        self.check = check
        self.changes: list[str] = []

    def act(self, what: str, *argv: object) -> None:
        self.changes.append(what)
        if not self.check:
            run(*argv)

    def labelled(self, kind: str) -> list[str]:
        """Names of this lab's containers, volumes or networks, also of those that an interrupted run left behind."""
        column = "{{.Names}}" if kind == "container" else "{{.Name}}"
        every = ["--all"] if kind == "container" else []
        return run("podman", kind, "ls", *every, "--filter", f"label={LABEL}={self.name}", "--format", column).split()

    # -- present ---------------------------------------------------------------------------------------------------
    def present(self, count: int, shared: Shared) -> list[dict[str, str]]:
        missing = shared.missing()
        if missing and not self.check:
            raise SystemExit(f"lab.py: not built yet: {', '.join(missing)}; run lab.py build first")
        names = [f"{self.name}-{number}" for number in range(1, count + 1)]
        for name in self.labelled("container"):
            if name not in names:
                self.remove_host(name)
                self.act(f"keys of {name} removed", "rm", "-rf", self.folder / "hosts" / name)
        if not self.labelled("network"):
            # No resolver of its own: the hosts use the machine's.
            self.act(f"network {self.name}", "podman", "network", "create", "--disable-dns", "--label", f"{LABEL}={self.name}", self.name)
            if self.check:
                self.changes += [f"host {name}" for name in names]
                return []
        network = json.loads(run("podman", "network", "inspect", self.name))[0]
        subnet = ipaddress.ip_network(network["subnets"][0]["subnet"])
        hosts = [{"name": name, "address": str(subnet[10 + number])} for number, name in enumerate(names, start=1)]
        self.write_keys(hosts)
        if not self.check:
            remember_nr_open()
        for host in hosts:
            self.start_host(host["name"], host["address"], shared)
        if not self.check:
            for host in hosts:
                self.wait_for_ssh(**host)
        return hosts

    def write_keys(self, hosts: list[dict[str, str]]) -> None:
        """One key for the client and one for each host, and a known_hosts, so that SSH's host key checking stays on."""
        folders = {host["name"]: self.folder / "hosts" / host["name"] for host in hosts}
        for key in [self.folder / "id_ed25519", *(folder / "host_key" for folder in folders.values())]:
            if not key.exists():
                self.changes.append(f"key {key.relative_to(self.folder)}")
                if not self.check:
                    key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {self.name}", "-f", key)
        if self.check:
            return
        (self.folder / "inventory").mkdir(exist_ok=True)  # the role's to fill
        for folder in folders.values():
            shutil.copy(self.folder / "id_ed25519.pub", folder / "authorized_keys")
            shutil.copy(HERE / "host.sh", folder / "host.sh")
        known = [f"{host['address']} {(folders[host['name']] / 'host_key.pub').read_text()}" for host in hosts]
        (self.folder / "known_hosts").write_text("".join(known))

    def start_host(self, name: str, address: str, shared: Shared) -> None:
        nofile, nproc = limit(resource.RLIMIT_NOFILE, 1048576), limit(resource.RLIMIT_NPROC, 32768)
        options = [
            *("--privileged", "--pids-limit", "0", "--ulimit", f"nofile={nofile}:{nofile}", "--ulimit", f"nproc={nproc}:{nproc}"),
            # The machine's own cgroup namespace: in another, CRIU finds paths in /proc/PID/cgroup that it cannot restore.
            *("--cgroupns", "host", "--hostname", name, "--network", self.name, "--ip", address),
            *("--volume", f"{name}-data:/var/lib/containers", "--volume", f"{self.folder}/hosts/{name}:/etc/lab:ro"),
            *("--volume", f"{shared.engine_store}:/usr/local/lib/lab-images:ro", "--volume", f"{shared.models}:/srv/models:ro"),
            *(shared.host_image, "/usr/bin/catatonit", "--", "/bin/sh", "/etc/lab/host.sh"),
        ]
        wanted = hashlib.sha256("\0".join([recipe("host.sh"), *options]).encode()).hexdigest()[:12]
        if name in self.labelled("container"):
            state = json.loads(run("podman", "container", "inspect", name))[0]
            if state["Config"]["Labels"].get(f"{LABEL}.recipe") == wanted:
                if not state["State"]["Running"]:
                    self.act(f"host {name} started", "podman", "start", name)
                return
            self.remove_host(name)
        label = ["--label", f"{LABEL}={self.name}"]
        if f"{name}-data" not in self.labelled("volume"):
            self.act(f"volume {name}-data", "podman", "volume", "create", *label, f"{name}-data")
        # runc: Debian 12's crun refuses the hybrid cgroup layout.
        self.act(
            f"host {name}",
            *("podman", "--runtime", "runc", "run", "--detach", "--name", name, *label, "--label", f"{LABEL}.recipe={wanted}", *options),
        )

    def wait_for_ssh(self, name: str, address: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((address, 22), timeout=1) as connection:
                if connection.recv(4) == b"SSH-":
                    return
            time.sleep(0.05)
        raise SystemExit(f"lab.py: {name} ({address}) does not answer on port 22: see podman logs {name}")

    # -- absent ----------------------------------------------------------------------------------------------------
    def absent(self) -> None:
        for name in self.labelled("container"):
            self.remove_host(name)
        for name in self.labelled("volume"):  # an interrupted run's
            self.act(f"volume {name} removed", "podman", "volume", "rm", name)
        for name in self.labelled("network"):
            self.act(f"network {name} removed", "podman", "network", "rm", name)
        if self.folder.exists():
            self.act(f"{self.folder} removed", "rm", "-rf", "--one-file-system", self.folder)
        self.restore_nr_open()

    def remove_host(self, name: str) -> None:
        control = RUN / name
        if control.is_socket() and not self.check:
            succeeds("ssh", "-O", "exit", "-o", f"ControlPath={control}", name)
            control.unlink(missing_ok=True)
        has_volume = f"{name}-data" in self.labelled("volume")
        groups = nested_cgroups(name) if has_volume else []
        self.act(f"host {name} removed", "podman", "rm", "--force", "--time", "0", name)
        if has_volume:
            self.act(f"volume {name}-data removed", "podman", "volume", "rm", f"{name}-data")
        if groups and not self.check:
            succeeds("find", *groups, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+")

    def restore_nr_open(self) -> None:
        """Role prerequisites lowers fs.nr_open where root may not exceed it; that is the machine's, so the last lab puts it back."""
        record = RUN / "nr_open"
        if record.exists() and not run("podman", "ps", "--all", "--quiet", "--filter", f"label={LABEL}").strip():
            if record.read_text() != NR_OPEN.read_text():
                self.changes.append("fs.nr_open put back")
                if not self.check:
                    NR_OPEN.write_text(record.read_text())
            if not self.check:
                record.unlink()


def remember_nr_open() -> None:
    record = RUN / "nr_open"
    if not record.exists():
        record.write_text(NR_OPEN.read_text())


def nested_cgroups(name: str) -> list[Path]:
    """Cgroups of the containers inside host NAME: they stand beside the host's own, and outlive it."""
    volume = json.loads(run("podman", "volume", "inspect", f"{name}-data"))[0]["Mountpoint"]
    inside = [folder.name for folder in Path(volume, "storage", "overlay-containers").glob("*") if folder.is_dir()]
    return [group for identity in inside for group in Path("/sys/fs/cgroup").glob(f"**/libpod_parent/libpod-{identity}")]


def limit(kind: int, enough: int) -> int:
    """No more than the machine's own hard limit, which root without CAP_SYS_RESOURCE cannot exceed, nor than podman's own for itself."""
    hard = resource.getrlimit(kind)[1]
    return enough if hard == resource.RLIM_INFINITY else min(hard, enough)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["build", "present", "absent"])
    parser.add_argument("--cache", type=Path, required=True, help="folder of images, models and downloaded packages; kept")
    parser.add_argument("--folder", type=Path, help="folder of the lab's keys; removed with the lab")
    parser.add_argument("--name", help="prefix of the hosts' names, and the network's name")
    parser.add_argument("--hosts", type=int, default=2, help="how many hosts")
    parser.add_argument("--check", action="store_true", help="say what would change, and change nothing")
    options = parser.parse_args()
    shared = Shared(options.cache)
    RUN.mkdir(mode=0o700, exist_ok=True)
    with (RUN / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result: dict[str, object]
        if options.action == "build":
            result = {"changes": shared.missing()}
            if not options.check:
                shared.build()
        else:
            lab = Lab(options.name, options.folder, options.check)
            hosts = lab.present(options.hosts, shared) if options.action == "present" else lab.absent()
            result = {"changes": lab.changes, "hosts": hosts or []}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
