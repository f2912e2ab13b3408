"""_reason.py: what real hosts printed leads to the right code, and the table keeps its promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import REASONS, WarmstartError, explain

CAPTURES = Path(__file__).parents[2] / "captures"


@pytest.mark.parametrize(
    ("capture", "code"),
    [
        ("podman_checkpoint_uring.txt", "io_uring"),
        ("podman_checkpoint_uring.log", "io_uring"),
        ("podman_checkpoint_linkremap.txt", "link_remap"),
        ("podman_checkpoint_ghost.txt", "ghost_limit"),
        ("podman_checkpoint_tcp.txt", "tcp_established"),
        ("podman_checkpoint_external_socket.txt", "external_socket"),
        ("podman_checkpoint_disk_full.txt", "disk_full"),
        ("podman_checkpoint_criu_missing.txt", "criu_missing"),
        ("podman_checkpoint_no_libcriu.txt", "runtime_without_criu"),
        ("podman_checkpoint_no_container.txt", "container_missing"),
        ("podman_checkpoint_not_running.txt", "container_not_running"),
        ("podman_restore_image_missing.txt", "image_missing"),
        ("podman_run_image_missing.txt", "image_missing"),
        ("podman_restore_mount_missing.txt", "mount_missing"),
        ("podman_run_mount_missing.txt", "mount_missing"),
        ("podman_restore_name_in_use.txt", "name_in_use"),
        ("podman_restore_port_in_use.txt", "port_in_use"),
        ("podman_run_port_in_use.txt", "port_in_use"),
        ("podman_restore_not_an_archive.txt", "archive_corrupt"),
        ("podman_restore_truncated.txt", "archive_corrupt"),
        ("criu_3_17_1_check_vdso.txt", "vdso_kernel"),
    ],
)
def test_captured_output_leads_to_its_reason(capture, code):
    reason = explain((CAPTURES / capture).read_text())
    assert reason is not None
    assert reason.code == code


@pytest.mark.parametrize(
    ("line", "code"),  # seen on real hosts and quoted from notes, where no capture could be made again
    [
        ("Error (criu/files-ext.c:98): Can't dump file 17 of that type [600] (unknown anon_inode:[io_uring])", "io_uring"),
        ("Error (criu/sk-inet.c:118): Can't get 1:16 opt: Operation not supported", "so_passcred_kernel"),
        ("Error (criu/rlimit.c:31): Can't setup RLIMIT_NOFILE for self: Operation not permitted", "rlimit_nofile"),
        ("Error (criu/netfilter.c:63): Iptables configuration failed: No such file or directory", "iptables_missing"),
        ("Error (criu/mount.c:724): mnt: FS mnt ./usr/local/nvidia dev 0xfe00010 root / unsupported id 61", "mount_below"),
        ("Error (criu/cr-dump.c:1814): Timeout reached. Try to interrupt: 1", "timeout"),
    ],
)
def test_quoted_output_leads_to_its_reason(line, code):
    assert explain(line).code == code


def test_unknown_output_has_no_reason():
    assert explain("all is well") is None


@pytest.mark.parametrize("reason", REASONS.values(), ids=REASONS)
def test_every_reason_is_one_sentence_with_a_fix(reason):
    assert re.fullmatch(r"[a-z][a-z0-9_]*", reason.code)
    assert reason.message.endswith(".")
    assert reason.fix.endswith(".") or reason.fix.endswith(")")
    for pattern in reason.patterns:
        re.compile(pattern)


def test_an_error_carries_code_fix_and_facts():
    error = WarmstartError("disk_full", "/mnt has 1 MiB free.", container_state="running")
    result = error.as_result()
    assert result["reason"] == "disk_full"
    assert result["container_state"] == "running"
    assert result["msg"].startswith(f"{REASONS['disk_full'].message} /mnt has 1 MiB free. ")
    assert result["fix"] in result["msg"]
