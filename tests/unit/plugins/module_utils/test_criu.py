# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What _criu.py and _criu_check.py make of the output of real CRIU and crun, kept in tests/unit/captures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _criu, _criu_check
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Result, Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

CAPTURES = Path(__file__).parents[2] / "captures"


class Recorded(Runner):
    """Answers a command by its last words, from captures: {"--version": (0, "criu_4_2_1_version.txt")}."""

    def __init__(self, answers=None):
        super().__init__()
        self.answers = {
            "criu --version": (0, "criu_4_2_1_version.txt"),
            "criu check": (0, "criu_4_2_1_check_ok.txt"),
            "criu --help": (0, "criu_4_2_1_help.txt"),
            "crun --version": (0, "crun_1_28_version.txt"),
            **(answers or {}),
        }

    def run(self, *argv, check=True, env=None, timeout=None):
        self.commands.append(list(argv))
        if argv[1:] == ("--no-default-config", "--version"):
            return Result(list(argv), 0, "", "", 0.0)
        rc, capture = self.answers[" ".join([os.path.basename(argv[0]), *argv[1:]])]
        text = (CAPTURES / capture).read_text()
        return Result(list(argv), rc, text, "", 0.0) if rc == 0 else Result(list(argv), rc, "", text, 0.0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A PATH with nothing but criu and runc in it, and an empty /etc/criu."""
    for name in ("criu", "runc"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(_criu, "root_path", lambda: str(tmp_path))
    monkeypatch.setattr(_criu_check, "root_path", lambda: str(tmp_path))
    monkeypatch.setattr(_criu, "CONFIG_FOLDER", str(tmp_path / "etc"))
    monkeypatch.setattr(_criu, "executable_folder", lambda: str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "etc").mkdir()
    return tmp_path


@pytest.fixture
def root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(_criu_check, "rlimit_problem", lambda: "")


def reasons(report):
    return {reason["code"]: reason for reason in report["reasons"]}


def test_version_and_features(folder):
    runner = Recorded(
        {
            "criu check --feature mem_dirty_track": (1, "criu_4_2_1_feature_missing.txt"),
            "criu check --feature uffd": (0, "criu_4_2_1_check_ok.txt"),
        }
    )
    criu = _criu.Criu(runner)
    assert criu.version() == "4.2.1"
    assert criu.features(["uffd", "mem_dirty_track"]) == {"uffd": True, "mem_dirty_track": False}


def test_unknown_feature_is_refused(folder):
    criu = _criu.Criu(Recorded({"criu check --feature nosuch": (1, "criu_4_2_1_feature_unknown.txt")}))
    with pytest.raises(WarmstartError, match="no feature 'nosuch'") as error:
        criu.features(["nosuch"])
    assert error.value.reason.code == "bad_input"


def test_criu_missing_says_where_it_looked(folder):
    (folder / "criu").unlink()
    with pytest.raises(WarmstartError, match=str(folder)) as error:
        _criu.Criu(Recorded()).version()
    assert error.value.reason.code == "criu_missing"
    with pytest.raises(WarmstartError, match="criu_path /nowhere/criu"):
        _criu.Criu(Recorded(), "/nowhere/criu").version()


def test_another_program_is_not_criu(folder):
    with pytest.raises(WarmstartError, match="does not answer as CRIU does") as error:
        _criu.Criu(Recorded({"criu --version": (0, "crun_1_28_version.txt")})).version()
    assert error.value.reason.code == "criu_missing"


@pytest.mark.parametrize(
    ("kernel", "version", "codes"),
    [
        ("6.18.44-fc-v445", "3.17.1", {"vdso_kernel", "mount_kernel", "so_passcred_kernel", "criu_too_old"}),
        ("6.18.44", "4.1.1", {"so_passcred_kernel", "criu_too_old"}),
        ("6.18.44", "4.2.1", set()),
        ("6.12.48+deb13-amd64", "4.1", {"mount_kernel"}),
        ("6.12.48+deb13-amd64", "4.1.1", set()),
        ("6.12.20", "4.1", set()),
        ("6.14.0-33-generic", "4.1", {"criu_too_old"}),
        ("5.14.0-570.el9.x86_64", "3.16", {"criu_too_old"}),
        ("7.1.0", "4.2", {"criu_too_old"}),
        ("7.1.0", "4.2.1", set()),
    ],
)
def test_known_bad(kernel, version, codes):
    assert {row.code for row in _criu_check.known_bad(kernel, version)} == codes


def test_host_is_ready(folder, root, monkeypatch):
    monkeypatch.setattr(_criu_check.os, "uname", lambda: os.uname_result(("Linux", "h", "6.18.44", "", "x86_64")))
    report = _criu_check.HostCheck(Recorded(), _criu.Criu(Recorded())).report([])
    assert (report["ready"], report["reasons"], report["version"]) == (True, [], "4.2.1")


def test_criu_too_old_for_the_kernel(folder, root, monkeypatch):
    monkeypatch.setattr(_criu_check.os, "uname", lambda: os.uname_result(("Linux", "h", "6.18.44", "", "x86_64")))
    runner = Recorded({"criu --version": (0, "criu_3_17_1_version.txt"), "criu check": (1, "criu_3_17_1_check_vdso.txt")})
    report = _criu_check.HostCheck(runner, _criu.Criu(runner)).report([])
    assert not report["ready"]
    found = reasons(report)
    assert "criu check: " in found["vdso_kernel"]["detail"]
    assert found["vdso_kernel"]["fix"] == "Install CRIU 4.1 or newer."
    assert found["so_passcred_kernel"]["certain"]
    assert not found["mount_kernel"]["certain"]


def test_only_uncertain_reasons_leave_the_host_ready(folder, root, monkeypatch):
    monkeypatch.setattr(_criu_check.os, "uname", lambda: os.uname_result(("Linux", "h", "6.1.147", "", "x86_64")))
    runner = Recorded({"criu --version": (0, "criu_3_17_1_version.txt")})
    report = _criu_check.HostCheck(runner, _criu.Criu(runner)).report([])
    assert report["ready"]
    assert list(reasons(report)) == ["mount_kernel"]


def test_not_root_is_a_reason(folder, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    report = _criu_check.HostCheck(Recorded(), _criu.Criu(Recorded())).report(["uffd"])
    assert "not_root" in reasons(report)
    assert not report["ready"]
    assert report["features"] == {}


def test_missing_feature_is_a_reason(folder, root):
    runner = Recorded({"criu check --feature mem_dirty_track": (1, "criu_4_2_1_feature_missing.txt")})
    report = _criu_check.HostCheck(runner, _criu.Criu(runner)).report(["mem_dirty_track"])
    assert reasons(report)["feature_missing"]["detail"] == "Missing: mem_dirty_track."


def test_runtime_without_criu(folder, root):
    (folder / "runc").rename(folder / "crun")
    runner = Recorded({"crun --version": (0, "crun_1_8_1_version.txt")})
    report = _criu_check.HostCheck(runner, _criu.Criu(runner)).report([])
    assert "runtime_without_criu" in reasons(report)
    assert report["runtimes"]["crun"]["config_file"] == ""


CONFIG = """# written by hand
ghost-limit 1G    # deleted files
network-lock=nftables
link-remap

cgroup-props "a: b"
action-script /one
action-script=/two
"""


def test_parse_config():
    assert _criu.parse_config(CONFIG) == {
        "ghost-limit": "1G",
        "network-lock": "nftables",
        "link-remap": True,
        "cgroup-props": "a: b",
        "action-script": ["/one", "/two"],
    }


def test_rendered_config_is_read_back():
    options = {"ghost-limit": "1G", "link-remap": True, "cgroup-props": "a: b", "action-script": ["/one", "/two"]}
    assert _criu.parse_config(_criu.render_config(options)) == options
    assert _criu.render_config({"link-remap": False, "file-locks": None, "timeout": 300}) == "no-link-remap\nfile-locks\ntimeout=300\n"


def test_config_files_in_force(folder):
    (folder / "etc/default.conf").write_text("timeout 300\n")
    (folder / ".criu").mkdir()
    (folder / ".criu/default.conf").write_text("ghost-limit 2G\n")
    assert _criu.config_files() == {f"{folder}/etc/default.conf": {"timeout": "300"}, f"{folder}/.criu/default.conf": {"ghost-limit": "2G"}}


@pytest.mark.parametrize(
    ("runtime", "version", "library", "crun_conf", "expected"),
    [
        ("/usr/bin/runc", "crun_1_28_version.txt", True, True, "runc.conf"),
        ("crun", "crun_1_28_version.txt", True, True, "crun.conf"),
        ("/usr/bin/crun", "crun_1_28_version.txt", True, False, "runc.conf"),
        ("crun", "crun_1_28_version.txt", False, True, None),
        ("crun", "crun_1_8_1_version.txt", True, True, None),
        ("youki", "crun_1_28_version.txt", True, True, None),
    ],
)
def test_rpc_config_file(folder, monkeypatch, runtime, version, library, crun_conf, expected):
    class Library:
        criu_set_config_file = None

    monkeypatch.setattr(_criu, "load_libcriu", lambda: Library() if library else None)
    if crun_conf:
        (folder / "etc/crun.conf").write_text("link-remap\n")
    found = _criu.rpc_config_file(Recorded({"crun --version": (0, version)}), runtime)
    assert found == (f"{folder}/etc/{expected}" if expected else None)


def test_environment_is_private_and_removed(folder):
    with _criu.criu_environment(Recorded(), None, {"ghost-limit": "1G"}, "runc") as path:
        private = Path(path.partition(":")[0])
        assert private.stat().st_mode & 0o777 == 0o700
        assert (private / "options.conf").stat().st_mode & 0o777 == 0o600
        assert (private / "options.conf").read_text() == "ghost-limit=1G\n"
        assert f"exec {folder}/criu" in (private / "criu").read_text()
    assert not private.exists()


def test_environment_is_removed_after_a_failure(folder):
    with pytest.raises(ZeroDivisionError), _criu.criu_environment(Recorded(), str(folder / "criu"), None):
        _never = len(list(folder.glob("warmstart-criu-*"))) / 0
    assert not list(folder.glob("warmstart-criu-*"))


def test_environment_without_options_is_plain_path(folder):
    with _criu.criu_environment(Recorded(), None, {}) as path:
        assert path == str(folder)
    assert not list(folder.glob("warmstart-criu-*"))


@pytest.mark.parametrize(
    ("options", "runtime", "message"),
    [
        ({"tcp-established": True}, "crun", "Use the module's option tcp_established"),
        ({"no-tcp-close": True}, "crun", "Use the module's option tcp_close"),
        ({"file-locks": True}, "runc", "Use the module's option file_locks"),
        ({"leave-running": True}, "crun", "Use the module's option leave_running"),
        ({"manage-cgroups": "full"}, "crun", "prerequisites_criu_runtime_config"),
        ({"link-remap": True}, "/usr/sbin/runc", "runc sends its own value"),
        ({"images-dir": "/tmp"}, "crun", "set by podman itself"),
        ({"timeout": 5}, "runc", "runc.conf sets it for the whole host"),
        ({"ghost-lim": "1G"}, "crun", "no option 'ghost-lim'"),
        ({"ghost-limit": "lots"}, "crun", "must be a number"),
        ({"action-script": ["/nowhere"]}, "crun", "not an executable file"),
        ({"lsm-profile": 'a"b'}, "crun", "no CRIU configuration file can hold"),
    ],
)
def test_options_that_would_be_ignored_are_refused(folder, options, runtime, message):
    (folder / "etc/runc.conf").write_text("timeout 300\n")
    with pytest.raises(WarmstartError, match=message) as error, _criu.criu_environment(Recorded(), None, options, runtime):
        pytest.fail("it was accepted")
    assert error.value.reason.code == "bad_input"
    assert not list(folder.glob("warmstart-criu-*"))


def test_link_remap_counts_under_crun(folder, monkeypatch):
    monkeypatch.setattr(_criu, "load_libcriu", lambda: None)
    with _criu.criu_environment(Recorded(), None, {"link-remap": True}, "crun") as path:
        assert (Path(path.partition(":")[0]) / "options.conf").read_text() == "link-remap\n"


def test_complaint_of_criu_is_found():
    text = (CAPTURES / "criu_4_2_1_bad_option.txt").read_text()
    assert _criu.complaint(Result(["criu"], 1, "", text, 0.0)) == "criu: unrecognized option '--nosuch'"
