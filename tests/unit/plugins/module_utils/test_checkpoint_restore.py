"""_checkpoint.py, _restore.py and _server.py: options that contradict each other, arguments, ports, space."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _checkpoint, _restore, _server
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "zstd"},
        {"ignore_rootfs": True},
        {"ignore_volumes": True},
        {"metadata": {"a": 1}},
        {"archive": Path("relative.tar")},
    ],
)
def test_checkpoint_refuses_options_that_contradict_each_other(options):
    with pytest.raises(WarmstartError) as error:
        _checkpoint.Options(name="llama", **options)
    assert error.value.reason.code == "bad_input"


@pytest.mark.parametrize(
    "options",
    [
        {"publish": ("8000:8000",)},
        {"replace": True},
        {"ignore_rootfs": True},
        {"ignore_volumes": True},
        {"tcp_established": True, "tcp_close": True},
        {"archive": Path("/a.tar"), "tcp_established": True},  # podman: --tcp-established cannot be used with --name
    ],
)
def test_restore_refuses_options_that_contradict_each_other(options):
    with pytest.raises(WarmstartError) as error:
        _restore.Options(name="llama", **options)
    assert error.value.reason.code == "bad_input"


def test_arguments_of_a_checkpoint():
    options = _checkpoint.Options(name="llama", archive=Path("/s/c.tar"), compress="zstd", leave_running=True, file_locks=True)
    assert options.arguments(Path("/s/.c.tar.partial")) == [
        *("container", "checkpoint", "--leave-running", "--file-locks", "--print-stats"),
        *("--export", "/s/.c.tar.partial", "--compress", "zstd", "llama"),
    ]


def test_arguments_of_a_restore():
    assert _restore.Options(name="llama").arguments() == ["container", "restore", "--keep", "--print-stats", "llama"]
    archive = _restore.Options(name="llama", archive=Path("/s/c.tar"), keep=False, publish=("80:80",), tcp_close=True)
    assert archive.arguments() == [
        *("container", "restore", "--tcp-close", "--print-stats"),
        *("--publish", "80:80", "--import", "/s/c.tar", "--name", "llama"),
    ]


def test_published_ports_are_those_of_the_host():
    entries = ["8000:80", "127.0.0.1:8001:80/tcp", "53:53/udp", "80", "[::1]:8002:80"]
    assert _server.published_ports(entries) == [("", 8000), ("127.0.0.1", 8001), ("[::1]", 8002)]


def test_a_port_somebody_listens_on_is_refused_and_a_free_one_is_not():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        _server.require_free_ports([("", port)], None)
        listener.listen()
        with pytest.raises(WarmstartError) as error:
            _server.require_free_ports([("", port)], None)
    assert error.value.reason.code == "port_in_use"
    assert str(port) in str(error.value)


def test_space_that_is_not_there_is_refused(tmp_path):
    _checkpoint.require_space(tmp_path, 1)
    with pytest.raises(WarmstartError) as error:
        _checkpoint.require_space(tmp_path, 1 << 60)
    assert error.value.reason.code == "disk_full"


def test_dumped_bytes_counts_this_process_and_forgets_none():
    before = _checkpoint.dumped_bytes(os.getpid())
    block = bytearray(os.urandom(64 << 20))
    assert _checkpoint.dumped_bytes(os.getpid()) - before > 60 << 20
    del block
    assert _checkpoint.dumped_bytes(2**22 + 1) == 0


def test_parts_of_a_start_add_up():
    answer = {"healthy_after": 0.5, "first_token": 0.1}
    timings = _server.probe_timings({"podman": 0.4, "criu": 0.3}, answer, 0.0)
    assert timings["healthy"] == pytest.approx(0.1)
    assert timings["total"] == pytest.approx(0.6)


def test_a_process_runs_or_not():
    assert _server.process_runs(os.getpid())
    assert not _server.process_runs(0)
    assert not _server.process_runs(2**22 + 1)
