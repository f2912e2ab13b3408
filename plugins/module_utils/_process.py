# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A container's processes: which they are, which NVIDIA devices they hold, and which run is working on them.

Reads /proc and the cgroup mounts; touches one small file for each process and GPU under /run/gpufleet-warmstart/gpu. Its
lock says that a run works on it, its content what the process needs when it is resumed. Used by _cuda.py.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from contextlib import ExitStack
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

RUN = Path("/run/gpufleet-warmstart/gpu")


def cgroup_pids(init_pid: int) -> list[int]:
    """All processes of the container whose first process is `init_pid`: those in its cgroup and the cgroups below it.

    Works with cgroup v2, v1 and both. A container without a cgroup of its own (--cgroups=disabled) answers with the
    first process and its descendants.
    """
    try:
        memberships = Path(f"/proc/{init_pid}/cgroup").read_text().splitlines()
    except OSError:
        return []
    ours = Path("/proc/self/cgroup").read_text().splitlines()
    for line in memberships:
        _id, controllers, path = line.split(":", 2)
        folder = _cgroup_folder(controllers, path)
        if path == "/" or line in ours or folder is None:
            continue
        pids: set[int] = set()
        for procs in folder.rglob("cgroup.procs"):
            pids.update(_read_pids(procs))
        if init_pid in pids:
            return sorted(pids)
    return sorted(_descendants(init_pid))


def _cgroup_folder(controllers: str, path: str) -> Path | None:
    """The folder of cgroup `path` in the hierarchy with `controllers` (none: v2), where it is mounted here."""
    # an init system in the container may have moved itself into a cgroup below the container's
    whole = re.match(r"(.*/libpod-(?!conmon)[^/]+)", path)
    path = whole.group(1) if whole else path
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _dash, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        root, mount = before.split()[3:5]
        same = kind == "cgroup2" if not controllers else kind == "cgroup" and set(controllers.split(",")) <= set(options.split(","))
        if same and (root == "/" or f"{path}/".startswith(f"{root}/")):
            folder = Path(mount + (path if root == "/" else path[len(root) :]))
            if folder.is_dir():
                return folder
    return None


def _read_pids(procs: Path) -> list[int]:
    try:
        # 0 stands for a process of another PID namespace
        return [int(pid) for pid in procs.read_text().split() if pid != "0"]
    except OSError:
        return []  # the cgroup is gone, or a threaded one, whose processes its parent lists


def _descendants(pid: int) -> set[int]:
    found = {pid}
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _read_pids(children):
            found |= _descendants(child)
    return found


def leftover_devices(pids) -> dict[int, list[str]]:
    """NVIDIA devices that `pids` still hold open or mapped; after a suspend, CRIU cannot dump such a process."""
    answer = {}
    for pid in pids:
        held = set()
        try:
            held.update(os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd"))
            maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
            held.update(line.split(None, 5)[5] for line in maps if "/dev/nvidia" in line)
        except OSError:
            pass  # it ended, or closed a descriptor meanwhile
        devices = sorted(path for path in held if path.startswith("/dev/nvidia"))
        if devices:
            answer[pid] = devices
    return answer


def hold_gpu(stack: ExitStack, gpu: str) -> None:
    """Wait for the lock of this GPU and hold it until `stack` ends: one run at a time counts free memory and takes it."""
    _hold(stack, RUN / f"{gpu}.lock", wait=True)


def _hold(stack: ExitStack, path: Path, wait: bool):
    """Hold the lock of `path` until `stack` ends; the kernel drops it when the process dies."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        file = stack.enter_context(os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+"))
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        # whoever held it before may have removed the file: then ours is not the one that others will lock
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            return file


class Claims:
    """The locked files of some processes, one run at a time; also iterates over them. Raises gpu_busy."""

    def __init__(self, pids):
        self.pids = sorted(pids)
        self.files: dict[int, object] = {}
        self.stack = ExitStack()

    def __enter__(self) -> Claims:
        for file in RUN.glob("[0-9]*"):
            if not Path(f"/proc/{file.name}").exists():
                file.unlink(missing_ok=True)
        for pid in self.pids:
            try:
                self.files[pid] = _hold(self.stack, RUN / str(pid), wait=False)
            except BlockingIOError:
                self.stack.close()
                raise WarmstartError("gpu_busy", f"Process {pid}.") from None
        return self

    def __exit__(self, *exception) -> None:
        self.stack.close()

    def __iter__(self):
        return iter(self.pids)

    def read(self, pid: int) -> dict[str, int]:
        """Bytes by GPU that this very process had when it was suspended here, or nothing."""
        self.files[pid].seek(0)
        try:
            record = json.loads(self.files[pid].read())
        except ValueError:
            return {}
        return record["gpu_memory"] if record["started"] == _started(pid) else {}

    def write(self, pid: int, memory: dict[str, int]) -> None:
        file = self.files[pid]
        file.seek(0)
        file.write(json.dumps({"started": _started(pid), "gpu_memory": memory}))
        file.truncate()
        file.flush()

    def drop(self, pid: int) -> None:
        (RUN / str(pid)).unlink(missing_ok=True)


def _started(pid: int) -> str:
    """When the process began, in the kernel's ticks: tells it from a later one with the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""
