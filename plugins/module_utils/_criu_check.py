# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is this host ready for checkpoints? CRIU's own check, features, and the kernels a CRIU is known to fail on.

Reads only. The binary and its configuration are in _criu.py; what each reason means is in _reason.py.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner, last_lines
from ansible_collections.gpufleet.warmstart.plugins.module_utils._criu import Criu, config_files, load_libcriu, root_path, rpc_config_file
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import REASONS, WarmstartError, explain

CAP_SYS_RESOURCE = 1 << 24


@dataclass(frozen=True)
class KnownBad:
    """CRIU before `fixed_in` fails on kernels from `since` up to, not including, `until`.

    `certain` is False where distributions have backported the fix (so the version proves nothing), or where it depends on
    the container's libc: then `criu check` or a real checkpoint tells, and the host is not called unready for the row alone.
    """

    since: tuple[int, ...]
    until: tuple[int, ...] | None
    fixed_in: tuple[int, ...]
    code: str
    symptom: str
    source: str
    certain: bool = True


MOUNT = ("mount_kernel", "a restore ends with `mnt-v2: Failed to make mount ... slave`", "CRIU 4.1.1 release notes, criu#2694")
PASSCRED = ("so_passcred_kernel", "the dump of any TCP socket ends with `Can't get 1:16 opt`", "criu#2705; seen: 4.1.1 on 6.18")
VDSO = ("vdso_kernel", "`vdso: Unexpected rt vDSO area bounds`", "criu#2532; seen: 3.17.1 on 6.18")
RSEQ = ("criu_too_old", "processes with glibc 2.35 or newer crash after the restore (rseq)", "CRIU 3.17 release notes")
GUARD = ("criu_too_old", "guard pages of glibc 2.42 and newer are lost (MADV_GUARD_INSTALL)", "criu#2626")
UDPLITE = ("criu_too_old", "a dump fails while it collects sockets, since UDP-Lite is gone", "criu#3002, criu#3003")

# Where to look first when a new kernel breaks checkpoints: add a row.
KNOWN_BAD = (
    KnownBad((4, 18), None, (3, 17), *RSEQ),
    # Fedora's 4.0-3 has the fix; `criu check` fails where it is missing.
    KnownBad((6, 13), None, (4, 1), *VDSO, certain=False),
    # The kernel's change went into mainline and, in the middle of 2025, into every stable series; Debian's 3.17.1-2+deb12u2 has the fix.
    KnownBad((5, 10, 239), (5, 11), (4, 1, 1), *MOUNT, certain=False),
    KnownBad((5, 15, 186), (5, 16), (4, 1, 1), *MOUNT, certain=False),
    KnownBad((6, 1, 142), (6, 2), (4, 1, 1), *MOUNT, certain=False),
    KnownBad((6, 6, 95), (6, 7), (4, 1, 1), *MOUNT, certain=False),
    KnownBad((6, 12, 34), (6, 13), (4, 1, 1), *MOUNT, certain=False),
    KnownBad((6, 15, 3), None, (4, 1, 1), *MOUNT, certain=False),
    KnownBad((6, 13), None, (4, 2), *GUARD, certain=False),
    KnownBad((6, 16), None, (4, 2), *PASSCRED),
    # Fedora's 4.2-18 and Debian's 4.2-6 have the fix.
    KnownBad((7, 1), None, (4, 2, 1), *UDPLITE, certain=False),
)


def numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: 6.18.44-fc gives (6, 18, 44)."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def known_bad(kernel: str, criu_version: str) -> list[KnownBad]:
    """The rows of the table that apply to this kernel and this CRIU, each given as a version text."""
    running, installed = numbers(kernel), numbers(criu_version)
    return [row for row in KNOWN_BAD if row.since <= running and (row.until is None or running < row.until) and installed < row.fixed_in]


def rlimit_problem() -> str:
    """Why CRIU could not raise RLIMIT_NOFILE on this host, or an empty string."""
    capabilities = int(re.search(r"^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text(), re.MULTILINE).group(1), 16)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    ceiling = int(Path("/proc/sys/fs/nr_open").read_text())
    if capabilities & CAP_SYS_RESOURCE or hard == resource.RLIM_INFINITY or ceiling <= hard:
        return ""
    return f"fs.nr_open is {ceiling}, the hard limit is {hard}, and CAP_SYS_RESOURCE is missing."


class HostCheck:
    """Collects why this host is not ready; report() is what module criu_check returns."""

    def __init__(self, runner: Runner, criu: Criu):
        self.runner, self.criu = runner, criu
        self.kernel = os.uname().release
        self.reasons: dict[str, dict] = {}

    def add(self, code: str, detail: str, certain: bool = True) -> None:
        """Note a reason; of two with one code the more certain is kept."""
        known = self.reasons.get(code)
        if known is None or (certain and not known["certain"]):
            reason = REASONS[code]
            self.reasons[code] = {"code": code, "message": reason.message, "fix": reason.fix, "detail": detail, "certain": certain}

    def report(self, features: list[str]) -> dict:
        started = time.monotonic()
        report = {"version": "", "criu_path": "", "kernel": self.kernel, "features": {}}
        report.update(config=config_files(), runtimes=self.runtimes())
        try:
            report["criu_path"] = self.criu.path
            report["version"] = self.criu.version()
        except WarmstartError as error:
            self.add(error.reason.code, error.detail)
        else:
            if os.geteuid() == 0:
                self.ask_criu()
                report["features"] = self.ask_features(features)
            self.ask_table(report["version"])
        self.ask_host()
        report["reasons"] = list(self.reasons.values())
        report["ready"] = not any(reason["certain"] for reason in report["reasons"])
        return {**report, "timings": {"total": time.monotonic() - started}}

    def ask_host(self) -> None:
        if os.geteuid() != 0:
            self.add("not_root", f"criu_check ran as user {os.geteuid()}.")
            return
        problem = rlimit_problem()
        if problem:
            self.add("rlimit_nofile", problem)

    def ask_criu(self) -> None:
        """Plain `criu check`, never --all: that warns of what no container needs."""
        result = self.criu.check()
        if result.rc != 0:
            reason = explain(result.output)
            self.add(reason.code if reason else "criu_check_failed", f"criu check: {last_lines(result.output)}")

    def ask_features(self, names: list[str]) -> dict[str, bool]:
        features = self.criu.features(names)
        missing = [name for name, found in features.items() if not found]
        if missing:
            self.add("feature_missing", f"Missing: {', '.join(missing)}.")
        return features

    def ask_table(self, version: str) -> None:
        for row in known_bad(self.kernel, version):
            fixed = ".".join(str(part) for part in row.fixed_in)
            detail = f"Linux {self.kernel} with CRIU {version}: {row.symptom}; fixed in CRIU {fixed} ({row.source})."
            self.add(row.code, detail, row.certain)

    def runtimes(self) -> dict[str, dict]:
        """The container runtimes here: can they checkpoint, and which configuration file do they put over all others."""
        found = {}
        for name in ("crun", "runc"):
            path = shutil.which(name, path=root_path())
            if path:
                built_in = name == "runc" or "+CRIU" in self.runner.run(path, "--version", check=False).stdout
                checkpoints = built_in and (name == "runc" or load_libcriu() is not None)
                found[name] = {"path": path, "checkpoints": checkpoints, "config_file": rpc_config_file(self.runner, path) or ""}
        if not any(runtime["checkpoints"] for runtime in found.values()):
            which = f"Found {', '.join(found)}, built without CRIU or without libcriu.so.2." if found else "Found neither crun nor runc."
            self.add("runtime_without_criu", which)
        return found
