# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The criu binary, the configuration files in force, and the environment that gives one container its own options.

Reads /etc/criu; writes nothing but a private folder that criu_environment() removes again. Whether this host is ready
for checkpoints is judged in _criu_check.py; podman is run in _podman.py.

CRIU takes its options in this order, and a later one wins: /etc/criu/default.conf, $HOME/.criu/default.conf,
CRIU_CONFIG_FILE, what the runtime sends over RPC, and last the file that the runtime names over RPC (rpc_config_file).
"""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Result, Runner, last_lines
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

CONFIG_FOLDER = "/etc/criu"

# Options that lose to what the runtime sends over RPC with every dump or restore (crun src/libcrun/criu.c, runc
# libcontainer/criu_linux.go; seen with crun 1.28, runc 1.3.6 and CRIU 4.2.1). crun sends no link-remap, so there it counts.
SENT_BY_BOTH = {"tcp-established", "tcp-close", "file-locks", "ext-unix-sk", "shell-job", "manage-cgroups"}
SENT_BY_RUNC = {"link-remap", "skip-in-flight", "auto-dedup", "lazy-pages", "empty-ns", "evasive-devices"}

# The same thing as an option of podman_checkpoint and podman_restore.
MODULE_OPTIONS = {
    "tcp-established": "tcp_established",
    "tcp-close": "tcp_close",
    "file-locks": "file_locks",
    "leave-running": "leave_running",
}

# Options that would take the dump or restore out of podman's hands.
OWNED_BY_PODMAN = {
    *("all", "config", "daemon", "exec-cmd", "experimental", "extra", "feature", "freeze-cgroup", "help", "images-dir"),
    *("leave-running", "leave-stopped", "log-file", "log-pid", "no-default-config", "page-server", "pidfile", "pre-dump-mode"),
    *("prev-images-dir", "ps-socket", "restore-detached", "restore-sibling", "root", "status-fd", "stream", "track-mem"),
    *("tree", "unprivileged", "verbosity", "version", "work-dir"),
}

# Given twice, these add up instead of replacing each other.
REPEATABLE = {"action-script", "cgroup-dump-controller", "cgroup-root", "enable-fs", "external", "irmap-scan-path", "join-ns", "skip-mnt"}

# CRIU reads a wrong number as 0 without a word.
NUMBERS = {"ghost-limit": r"\d+[KMG]?", "timeout": r"\d+"}


class Criu:
    """One criu binary: `path` if given, else the first in PATH or where root's PATH would have it."""

    def __init__(self, runner: Runner, path: str | None = None):
        self.runner = runner
        self._path = path

    @property
    def path(self) -> str:
        if self._path:
            if os.path.isfile(self._path) and os.access(self._path, os.X_OK):
                return self._path
            raise WarmstartError("criu_missing", f"criu_path {self._path} is not an executable file.")
        found = shutil.which("criu", path=root_path())
        if not found:
            raise WarmstartError("criu_missing", f"Looked in {root_path()}.")
        return found

    def version(self) -> str:
        """What `criu --version` says: 4.2.1"""
        result = self.runner.run(self.path, "--version", check=False)
        match = re.search(r"^Version:\s*(\d+(?:\.\d+)*)", result.stdout, re.MULTILINE)
        if not match:
            raise WarmstartError("criu_missing", f"{self.path} --version does not answer as CRIU does: {last_lines(result.output)}")
        return match.group(1)

    def check(self, feature: str | None = None) -> Result:
        """Run `criu check`, of one feature if named; rc 0 means that the kernel has it."""
        return self.runner.run(self.path, "check", *(("--feature", feature) if feature else ()), check=False)

    def features(self, names: list[str]) -> dict[str, bool]:
        """Which of the named features are there; an unknown name is refused."""
        found = {}
        for name in names:
            result = self.check(name)
            if "Unknown feature" in result.output:
                raise WarmstartError("bad_input", f"{self.path} knows no feature {name!r}; criu --help lists them.")
            found[name] = result.rc == 0
        return found

    def option_names(self) -> set[str]:
        """Every option that `criu --help` lists, without dashes."""
        return set(re.findall(r"--([a-z][a-z0-9-]+)", self.runner.run(self.path, "--help", check=False).stdout)) | {"ext-unix-sk"}


def root_path() -> str:
    """PATH, and behind it the folders where a login as root would look too: sudo and sshd often leave them out."""
    folders = os.environ.get("PATH", "/usr/bin:/bin").split(os.pathsep)
    return os.pathsep.join([*folders, *(name for name in ("/usr/local/sbin", "/usr/sbin", "/sbin") if name not in folders)])


def parse_config(text: str) -> dict:
    """The options of a CRIU configuration file: {"ghost-limit": "1G", "link-remap": True, "action-script": [...]}."""
    options: dict = {}
    for line in text.splitlines():
        words = shlex.split(line, comments=True) if line.count('"') % 2 == 0 else line.split()
        if not words:
            continue
        name, _equals, value = words[0].partition("=")
        value = value or " ".join(words[1:]) or True
        if name in REPEATABLE:
            options.setdefault(name, []).append(value)
        else:
            options[name] = value
    return options


def config_files() -> dict[str, dict]:
    """The configuration files that exist on this host, in the order CRIU reads them, with their options."""
    home = os.environ.get("HOME", "/root")
    paths = (f"{CONFIG_FOLDER}/default.conf", f"{home}/.criu/default.conf", f"{CONFIG_FOLDER}/crun.conf", f"{CONFIG_FOLDER}/runc.conf")
    return {path: parse_config(Path(path).read_text(errors="replace")) for path in paths if os.access(path, os.R_OK)}


def rpc_config_file(runner: Runner, runtime: str) -> str | None:
    """The configuration file that `runtime` (a name or path) names over RPC, whose options win over all others."""
    name = os.path.basename(runtime)
    if name == "runc":
        return f"{CONFIG_FOLDER}/runc.conf"
    if name != "crun":
        return None
    says = runner.run(shutil.which(runtime, path=root_path()) or runtime, "--version", check=False).stdout
    match = re.search(r"crun version (\d+)\.(\d+)", says)
    if not match or (int(match.group(1)), int(match.group(2))) < (1, 26) or not hasattr(load_libcriu(), "criu_set_config_file"):
        return None
    own = f"{CONFIG_FOLDER}/crun.conf"
    return own if os.path.exists(own) else f"{CONFIG_FOLDER}/runc.conf"


def load_libcriu() -> ctypes.CDLL | None:
    """The library through which crun talks to CRIU, or None; 4.2 and newer can pass a configuration file on."""
    try:
        return ctypes.CDLL("libcriu.so.2")
    except OSError:
        return None


def render_config(options: dict) -> str:
    """The text of a configuration file; true or nothing is the bare option, false its no- form, a list one line for each."""
    lines = []
    for name, value in options.items():
        for item in value if isinstance(value, list) else [value]:
            text = "" if item is None else str(item)
            if isinstance(item, bool) or not text:
                lines.append(f"no-{name}" if item is False else name)
                continue
            if '"' in text or "\n" in text:
                raise WarmstartError("bad_input", f"criu_config: {name} has a value that no CRIU configuration file can hold.")
            lines.append(f'{name} "{text}"' if re.search(r"[\s#]", text) else f"{name}={text}")
    return "".join(f"{line}\n" for line in lines)


def refuse_ignored(options: dict, runtime: str, host_file: str | None, host_options: dict) -> None:
    """Raise bad_input for an option of one container that `runtime`, or the file it names over RPC, would override."""
    sent = SENT_BY_BOTH | (SENT_BY_RUNC if os.path.basename(runtime) == "runc" else set())
    for given in options:
        name = given[3:] if given.startswith("no-") else given
        instead = f" Use the module's option {MODULE_OPTIONS[name]}." if name in MODULE_OPTIONS else ""
        if name in OWNED_BY_PODMAN:
            raise WarmstartError("bad_input", f"criu_config: {given} is set by podman itself and cannot be changed.{instead}")
        if name in sent:
            instead = instead or " Set it for the whole host: variable prerequisites_criu_runtime_config of role prerequisites."
            raise WarmstartError("bad_input", f"criu_config: {given} would be ignored: {runtime} sends its own value to CRIU.{instead}")
        if name in host_options and name not in REPEATABLE:
            raise WarmstartError(
                "bad_input",
                f"criu_config: {given} would be ignored: {host_file} sets it for the whole host, and {runtime} lets that file win. "
                "Remove it there (prerequisites_criu_runtime_config) to set it for one container.",
            )


def check_options(criu: Criu, options: dict) -> None:
    """Raise bad_input for an option or a value that this criu does not know."""
    known = criu.option_names()
    for given, value in options.items():
        name = given[3:] if given.startswith("no-") else given
        # Exact names only: CRIU itself also takes abbreviations, which would slip past refuse_ignored().
        if name not in known:
            raise WarmstartError("bad_input", f"criu_config: {criu.path} has no option {given!r}; criu --help lists them.")
        if name in NUMBERS and not re.fullmatch(NUMBERS[name], str(value)):
            raise WarmstartError("bad_input", f"criu_config: {given} must be a number (ghost-limit: 1G, timeout: 300), not {value!r}.")
        for script in (value if isinstance(value, list) else [value]) if name == "action-script" else []:
            if not (str(script).startswith("/") and os.access(str(script), os.X_OK)):
                raise WarmstartError("bad_input", f"criu_config: action-script {script} is not an executable file with a full path.")


@contextmanager
def criu_environment(runner: Runner, criu_path: str | None, criu_config: dict | None, runtime: str = "crun") -> Iterator[str]:
    """Give the PATH under which podman, crun and runc find the chosen criu with this container's own options.

    All three exec `criu` from PATH, and of the environment podman hands only PATH on to a checkpoint: so a private
    folder holds a script named criu that sets CRIU_CONFIG_FILE. It is gone when the context ends.
    """
    if not criu_path and not criu_config:
        yield root_path()
        return
    criu = Criu(runner, criu_path)
    options = criu_config or {}
    real = os.path.abspath(criu.path)
    if options:
        check_options(criu, options)
        host_file = rpc_config_file(runner, runtime)
        refuse_ignored(options, runtime, host_file, config_files().get(host_file or "", {}))
    text = render_config(options)
    with scripts_folder() as folder:
        config = os.path.join(folder, "options.conf")
        write_private(config, text, 0o600)
        script = os.path.join(folder, "criu")
        write_private(script, f'#!/bin/sh\nCRIU_CONFIG_FILE={shlex.quote(config)} exec {shlex.quote(real)} "$@"\n', 0o700)
        if options:
            # The last word is CRIU's own: it parses the file before it prints its version.
            parsed = runner.run(script, "--no-default-config", "--version", check=False)
            if parsed.rc != 0:
                raise WarmstartError("bad_input", f"criu_config: {real} refuses these options: {complaint(parsed)}")
        yield os.pathsep.join((folder, root_path()))


def complaint(result: Result) -> str:
    """The line in which CRIU says what it does not like, without the usage text around it."""
    lines = [line for line in result.output.splitlines() if re.match(r"criu: |Error ", line)]
    return lines[-1] if lines else last_lines(result.output)


@contextmanager
def scripts_folder() -> Iterator[str]:
    """A folder for scripts that goes with the block; those of runs that were killed go, too."""
    parent = executable_folder()
    for name in os.listdir(parent):
        owner = re.match(r"warmstart-(\d+)-", name)
        if owner and not os.path.exists(f"/proc/{owner.group(1)}"):
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"warmstart-{os.getpid()}-", dir=parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def executable_folder() -> str:
    """Where a script can be executed: /run is mounted noexec on many hosts."""
    for folder in ("/run", "/var/tmp", "/tmp"):
        if os.path.isdir(folder) and not os.statvfs(folder).f_flag & os.ST_NOEXEC:
            return folder
    raise WarmstartError("bad_input", "criu_config and criu_path need one of /run, /var/tmp and /tmp mounted without noexec.")


def write_private(path: str, text: str, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
