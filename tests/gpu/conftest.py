# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for tests on a GPU host: the modules through real Ansible, and a CUDA server in a real podman container.

Needs root, podman, ansible in PATH, gcc, and a Python with torch, named in GPU_TEST_PYTHON unless it is the one that runs
pytest. The container borrows it: its image is empty and the host's /usr and /opt are mounted into it. Touches containers
called gpu-test-*, and test_vllm.py what it says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "localhost/gpu-test-hostroot:1"
PYTHON = os.environ.get("GPU_TEST_PYTHON", sys.executable)  # of the host, with torch, for the containers
COLLECTIONS = ROOT / "build" / "gpu-test"
INTERPRETER = "ansible_python_interpreter={{ ansible_playbook_python }}"

# The collection is imported as Ansible does it, from wherever it was cloned.
link = COLLECTIONS / "ansible_collections" / "gpufleet" / "warmstart"
link.parent.mkdir(parents=True, exist_ok=True)
if not link.is_symlink():
    link.symlink_to(ROOT)
sys.path.insert(0, str(COLLECTIONS))

# Takes all but the given number of bytes of the first GPU, until a line arrives.
HOG = """
import ctypes, sys
cuda = ctypes.CDLL(sys.argv[1])
free, total, memory, context, device = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_uint64(), ctypes.c_void_p(), ctypes.c_int()
cuda.cuInit(0), cuda.cuDeviceGet(ctypes.byref(device), 0), cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
cuda.cuCtxSetCurrent(context), cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
print(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(free.value - int(sys.argv[2]))), flush=True)
sys.stdin.readline()
"""


def podman(*arguments: str, check: bool = True) -> str:
    return subprocess.run(["podman", *arguments], check=check, capture_output=True, text=True).stdout.strip()


@contextmanager
def hog(left: int):
    """Take all but `left` bytes of the first GPU meanwhile."""
    from ansible_collections.gpufleet.warmstart.plugins.module_utils._gpu import open_library

    command = [sys.executable, "-c", HOG, open_library("libcuda.so.1")._name, str(left)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "0\n"
        yield
    finally:
        process.communicate("go\n")


def start_module(module: str, *options: str, **arguments) -> subprocess.Popen:
    """Start `ansible localhost -m gpufleet.warmstart.MODULE`."""
    return subprocess.Popen(
        ["ansible", "localhost", "-m", f"gpufleet.warmstart.{module}", "-a", json.dumps(arguments), *options, "-e", INTERPRETER],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_NOCOLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish_module(process: subprocess.Popen) -> dict:
    """What the module returned; `failed` is set where it failed."""
    stdout, stderr = process.communicate()
    assert "=> {" in stdout, stdout + stderr
    result = json.loads(stdout[stdout.index("=> {") + 3 : stdout.rindex("}") + 1])
    print(f"  {' '.join(process.args[4:6])} -> {json.dumps({k: v for k, v in result.items() if k not in ('invocation', 'commands')})}")
    return {"failed": "FAILED!" in stdout, **result}


def run_module(module: str, *options: str, **arguments) -> dict:
    return finish_module(start_module(module, *options, **arguments))


class Server:
    """cuda_server.py in a container: it counts, with a checksum of its GPU memory beside each count."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder

    def start(self, *command: str, args: tuple[str, ...] = ("--privileged",)) -> None:
        # each mount without what is mounted below it, which CRIU would not know
        mounts = [f"{folder}:{folder}:ro,bind" for folder in ("/usr", "/opt", "/usr/local/nvidia")]
        mounts += [f"{self.folder}:/state", f"{Path(__file__).parent}:/tests:ro"]
        podman("run", "-d", "--name", self.name, *args, "--network", "host", *(word for mount in mounts for word in ("-v", mount)),
               "-e", "LD_LIBRARY_PATH=/usr/local/nvidia/lib64", IMAGE, *command)  # fmt: skip

    @property
    def alive(self) -> bool:
        return podman("container", "inspect", "--format", "{{.State.Running}}", self.name) == "true"

    @property
    def pid(self) -> int:
        return int(podman("container", "inspect", "--format", "{{.State.Pid}}", self.name))

    def wait_for_count(self) -> None:
        end = time.monotonic() + 120
        while not (self.folder / "count").exists():
            assert time.monotonic() < end, podman("logs", self.name, check=False)
            time.sleep(0.05)

    def start_again(self) -> None:
        """Start the stopped container."""
        (self.folder / "count").unlink(missing_ok=True)
        podman("start", self.name)
        self.wait_for_count()

    def last(self) -> tuple[int, str]:
        count, checksum = (self.folder / "count").read_text().split()
        return int(count), checksum

    def goes_on(self, seconds: float = 30) -> bool:
        """Whether it counts on, which it can only do with the GPU."""
        count, end = self.last()[0], time.monotonic() + seconds
        while time.monotonic() < end:
            if self.last()[0] > count + 1:
                return True
            time.sleep(0.02)
        return False

    def stands_still(self, seconds: float = 0.5) -> bool:
        count = self.last()[0]
        time.sleep(seconds)
        # a count that was under way when the GPU went is allowed
        return self.last()[0] <= count + 1


two_gpus = pytest.mark.skipif(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))) < 2, reason="needs two GPUs")


@pytest.fixture(scope="session")
def image(tmp_path_factory) -> str:
    """An image with no files of its own but links and the linker's cache."""
    if subprocess.run(["podman", "image", "exists", IMAGE], check=False).returncode:
        root = tmp_path_factory.mktemp("image")
        for name in ("usr", "opt", "etc", "tmp", "proc", "sys", "dev", "run", "root", "var", "state", "tests"):
            (root / name).mkdir()
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        for name in ("passwd", "group", "ld.so.cache"):
            (root / "etc" / name).write_bytes(Path("/etc", name).read_bytes())
        if Path("/etc/alternatives").is_dir():  # compilers, CUDA's folder
            shutil.copytree("/etc/alternatives", root / "etc" / "alternatives", symlinks=True)
        with tarfile.open(f"{root}.tar", "w") as archive:
            archive.add(root, ".")
        podman("import", f"{root}.tar", IMAGE)
    return IMAGE


@pytest.fixture(scope="session")
def canary(tmp_path_factory) -> str:
    """An image for role prerequisites' canary, on a host without podman's pause program: a program that sleeps for ever."""
    name, folder = "localhost/gpu-test-canary:1", tmp_path_factory.mktemp("canary")
    program = "int pause(void); int main() { for (;;) pause(); }"
    subprocess.run(["gcc", "-static", "-xc", "-", "-o", folder / "pause"], input=program, text=True, check=True)
    with tarfile.open(folder / "image.tar", "w") as archive:
        archive.add(folder / "pause", "pause")
    podman("import", "--change", 'CMD ["/pause"]', str(folder / "image.tar"), name)
    return name


@pytest.fixture(scope="module")
def server(image, tmp_path_factory):
    """The CUDA server, up and counting."""
    server = Server("gpu-test-server", tmp_path_factory.mktemp("server"))
    podman("rm", "-f", "-t", "0", server.name, check=False)
    server.start(PYTHON, "/tests/cuda_server.py", "/state")
    server.wait_for_count()
    yield server
    podman("rm", "-f", "-t", "0", server.name, check=False)
