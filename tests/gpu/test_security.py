# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a GPU container needs instead of --privileged: a CUDA server with less goes through checkpoint and restore all the same."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from conftest import PYTHON, Server, podman, run_module

NODES = sorted(path for path in Path("/dev").glob("nvidia*") if stat.S_ISCHR(path.stat().st_mode))
GPU = [path for path in NODES if path.name not in ("nvidia-modeset", "nvidia-uvm-tools")]
BARE = ("--cap-drop", "all", "--security-opt", "no-new-privileges")
BARE += ("--security-opt", "seccomp=/etc/gpufleet-warmstart/seccomp-no-io-uring.json")


def devices(paths: list[Path]) -> tuple[str, ...]:
    return tuple(word for path in paths for word in ("--device", str(path)))


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(devices(GPU), id="devices"),
        pytest.param((*devices(GPU), *BARE), id="devices_and_no_capabilities"),
    ],
)
def test_without_privileged(image, tmp_path, args):
    server = Server("gpu-test-unprivileged", tmp_path)
    podman("rm", "-f", "-t", "0", server.name, check=False)
    try:
        server.start(PYTHON, "/tests/cuda_server.py", "/state", args=args)
        server.wait_for_count()
        checksum = server.last()[1]
        taken = run_module("podman_checkpoint", name=server.name)
        assert not taken["failed"], taken
        back = run_module("podman_restore", name=server.name)
        assert not back["failed"], back
        assert server.goes_on()
        assert server.last()[1] == checksum
    finally:
        run_module("podman_server", name=server.name, state="absent")
