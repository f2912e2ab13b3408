# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How one shard moves: to and from an OCI registry with oras, a file server with httpx, or a folder.

Each transport has get_index and put_index (the list of shards, under a tag), get and put (one shard); all may be called from
several threads. Touches the network, and a file of credentials under /run while a registry is spoken to with user and password.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Result, Runner, last_lines
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError, explain
from ansible_collections.gpufleet.warmstart.plugins.module_utils._shards import EMPTY, INDEX_TYPE, Shard

RUN = Path("/run/gpufleet-warmstart")
WAITS = (1, 2, 4)  # seconds before each new try where nothing answered
QUIET = 30  # seconds without a byte from a file server
# What oras 1.3 prints (tests/unit/captures/oras_1_3_3_errors.txt), the specific before the general.
ORAS_ERRORS = (
    ("registry_auth", r"unauthorized|40[13]: (?:Unauthorized|Forbidden)|credential not found|denied"),
    ("digest_mismatch", r"mismatched digest"),
    ("registry_tls", r"x509:|tls:|server gave HTTP response to HTTPS client"),
    ("registry_missing", r"not found"),
    (
        "registry_unreachable",
        r"connection re(?:fused|set)|unexpected EOF|no such host|no route|unreachable|timeout|5\d\d: |broken pipe|: EOF|http2: |closed",
    ),
)


# Options of golden_publish and golden_fetch; doc fragment `transport` describes them.
ARGUMENTS = {
    "location": {"type": "str"},
    "tag": {"type": "str"},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "auth_file": {"type": "path"},
    "ca_file": {"type": "path"},
    "timeout": {"type": "float", "default": 300.0},
    "parallel": {"type": "int", "default": 4},
}


@dataclass(frozen=True)
class Access:
    """What opens a registry or file server."""

    username: str | None
    password: str | None
    auth_file: str | None
    ca_file: str | None
    timeout: float


def persistent(action: Callable[[], int], stopped: Callable[[], bool] = lambda: False) -> int:
    """`action()`, tried again after a while where nothing answered and nobody asked to stop."""
    for wait in WAITS:
        try:
            return action()
        except WarmstartError as error:
            if error.reason.code != "registry_unreachable" or stopped():
                raise
        time.sleep(wait)
    return action()


class Registry:
    """Shards as blobs of an OCI repository, their list as the manifest of an artifact. One oras process for each blob."""

    def __init__(self, runner: Runner, repository: str, tag: str, access: Access, config: Path | None) -> None:
        scheme, found, name = repository.rpartition("://")
        self.name = name.rstrip("/")
        if (found and scheme not in ("http", "https")) or not re.fullmatch(r"[^/\s@]+(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)+", self.name):
            raise WarmstartError("bad_input", f"{repository} is not HOST[:PORT]/REPOSITORY, in lower case, or http:// and that.")
        if not re.fullmatch(r"\w[\w.-]{0,127}", tag, re.ASCII):
            raise WarmstartError("bad_input", f"{tag} is not a tag: letters, digits, dot, dash and underscore, at most 128.")
        self.tag = tag
        self.runner, self.timeout = runner, access.timeout
        self.options = ["--plain-http"] if scheme == "http" else []
        self.options += ["--ca-file", access.ca_file] if access.ca_file else []
        self.options += ["--registry-config", str(config)] if config else []
        self._noted: set[tuple[str, ...]] = set()

    def _oras(self, *words: str) -> Result:
        """Run oras; `commands` get the first of a kind only, since there may be thousands."""
        kind = words[:2]
        runner = Runner() if kind in self._noted else self.runner
        self._noted.add(kind)
        try:
            done = runner.run("oras", *kind, *self.options, *words[2:], check=False, timeout=self.timeout)
        except WarmstartError as error:
            if error.reason.code == "timeout":
                raise WarmstartError("registry_unreachable", f"oras was not done with one request in {self.timeout:g} s.") from None
            raise
        if done.rc == 127:
            raise WarmstartError("dependency_missing", "oras was not found; role distribute installs it, or put the program into PATH.")
        if done.rc:
            raise oras_error(done.output)
        return done

    def get_index(self) -> bytes | None:
        try:
            return self._oras("manifest", "fetch", f"{self.name}:{self.tag}").stdout.encode()
        except WarmstartError as error:
            if error.reason.code == "registry_missing":
                return None
            raise

    def put_index(self, index: bytes, folder: Path) -> None:
        for name, content, words in (
            ("config", EMPTY, ("blob", "push", self.name)),
            ("index", index, ("manifest", "push", "--media-type", INDEX_TYPE, f"{self.name}:{self.tag}")),
        ):
            (folder / name).write_bytes(content)
            self._oras(*words, str(folder / name))

    def get(self, shard: Shard, path: Path) -> int:
        path.unlink(missing_ok=True)
        self._oras("blob", "fetch", "--output", str(path), f"{self.name}@sha256:{shard.digest}")
        return shard.size

    def put(self, shard: Shard, path: Path) -> int:
        done = self._oras("blob", "push", f"{self.name}@sha256:{shard.digest}", str(path))
        return 0 if "Exists" in done.output else shard.size


def oras_error(output: str) -> WarmstartError:
    code = next((code for code, pattern in ORAS_ERRORS if re.search(pattern, output)), None)
    reason = explain(output)
    if reason and reason.code == "disk_full":
        code = "disk_full"
    # Upload URLs hold the registry's session state.
    return WarmstartError(code or "command_failed", re.sub(r"\?[^\s\"]+", "?...", last_lines(output)))


class Web:
    """Files below a URL: TAG.json, the list, and sha256/DIGEST, the shards. Ranged GET; PUT where the server takes it."""

    def __init__(self, base: str, tag: str, access: Access) -> None:
        try:
            import httpx
        except ImportError:
            raise WarmstartError("dependency_missing", "httpx is needed to fetch over HTTP.") from None
        if urlsplit(base).username:
            raise WarmstartError("bad_input", "Give username and password as options, not in the URL.")
        self.httpx, self.base, self.tag = httpx, base.rstrip("/"), tag
        auth = (access.username, access.password or "") if access.username else None
        try:
            if access.auth_file:
                auth = httpx.NetRCAuth(access.auth_file)
            verify = ssl.create_default_context(cafile=access.ca_file) if access.ca_file else True
        except (OSError, ValueError) as error:
            raise WarmstartError("bad_input", f"auth_file or ca_file cannot be read: {error}") from None
        self.client = httpx.Client(auth=auth, verify=verify, timeout=QUIET, follow_redirects=True)

    @contextlib.contextmanager
    def _request(self, method: str, name: str, accepted: tuple[int, ...], **more) -> Iterator:
        url = f"{self.base}/{name}"
        try:
            with self.client.stream(method, url, **more) as answer:
                if answer.status_code not in accepted:
                    codes = {401: "registry_auth", 403: "registry_auth", 404: "registry_missing", 507: "registry_full"}
                    code = codes.get(answer.status_code, "registry_unreachable" if answer.status_code >= 500 else "registry_refused")
                    raise WarmstartError(code, f"{method} {url}: HTTP {answer.status_code}.")
                yield answer
        except self.httpx.TransportError as error:
            code = "registry_tls" if "CERTIFICATE" in str(error) or "SSL" in str(error) else "registry_unreachable"
            raise WarmstartError(code, f"{method} {url}: {error or type(error).__name__}") from None

    def get_index(self) -> bytes | None:
        with self._request("GET", f"{self.tag}.json", (200, 404)) as answer:
            return answer.read() if answer.status_code == 200 else None

    def put_index(self, index: bytes, _folder: Path) -> None:
        with self._request("PUT", f"{self.tag}.json", (200, 201, 204), content=index):
            pass

    def get(self, shard: Shard, path: Path) -> int:
        """Fetch what `path` does not have yet of the shard; bytes received."""
        there = path.stat().st_size if path.exists() else 0
        if there >= shard.size:
            path.unlink()
            there = 0
        headers = {"Range": f"bytes={there}-", "Accept-Encoding": "identity"} if there else {"Accept-Encoding": "identity"}
        with self._request("GET", f"sha256/{shard.digest}", (200, 206), headers=headers) as answer:
            resumed = there and answer.status_code == 206
            received = 0
            with path.open("ab" if resumed else "wb", buffering=0) as file:
                for block in answer.iter_raw():
                    file.write(block)
                    received += len(block)
        return received

    def put(self, shard: Shard, path: Path) -> int:
        name = f"sha256/{shard.digest}"
        with self._request("HEAD", name, (200, 404)) as answer:
            if answer.status_code == 200 and int(answer.headers.get("Content-Length", -1)) == shard.size:
                return 0
        with path.open("rb") as file:
            headers = {"Content-Length": str(shard.size)}
            with self._request("PUT", name, (200, 201, 204), content=iter(lambda: file.read(1 << 20), b""), headers=headers):
                return shard.size


class Folder:
    """The files of Web below a folder: a mounted share, or what a web server serves."""

    def __init__(self, base: str, tag: str) -> None:
        self.base, self.tag = Path(urlsplit(base).path), tag
        if not self.base.parent.is_dir():  # a share that is not mounted
            raise WarmstartError("registry_missing", f"There is no folder {self.base.parent}.")

    def get_index(self) -> bytes | None:
        path = self.base / f"{self.tag}.json"
        return path.read_bytes() if path.exists() else None

    def put_index(self, index: bytes, _folder: Path) -> None:
        self._place(self.base / f"{self.tag}.json", lambda path: path.write_bytes(index))

    def get(self, shard: Shard, path: Path) -> int:
        try:
            shutil.copyfile(self.base / "sha256" / shard.digest, path)
        except FileNotFoundError as error:
            raise WarmstartError("registry_missing", str(error)) from None
        return shard.size

    def put(self, shard: Shard, path: Path) -> int:
        target = self.base / "sha256" / shard.digest
        if target.exists() and target.stat().st_size == shard.size:
            return 0
        target.parent.mkdir(parents=True, exist_ok=True)
        self._place(target, lambda partial: shutil.copyfile(path, partial))
        return shard.size

    @staticmethod
    def _place(target: Path, make: Callable[[Path], object]) -> None:
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            make(partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def connect(runner: Runner, via: str, options: dict) -> Iterator[Registry | Web | Folder]:
    """The transport that ARGUMENTS describe; a file of credentials that it needs is gone afterwards."""
    location, tag = options["location"], options["tag"]
    access = Access(*(options[name] for name in ("username", "password", "auth_file", "ca_file", "timeout")))
    if options["parallel"] < 1:
        raise WarmstartError("bad_input", "parallel must be at least 1.")
    if (access.username is None) != (access.password is None) or (access.auth_file and access.username):
        raise WarmstartError("bad_input", "Give username and password, or auth_file, or none of them.")
    if via == "http":
        if not re.match(r"https?://[^/]|file:///", location):
            raise WarmstartError("bad_input", f"{location} is not a URL: http://, https:// or file:///.")
        yield Folder(location, tag) if location.startswith("file:") else Web(location, tag, access)
        return
    if not access.username:
        yield Registry(runner, location, tag, access, Path(access.auth_file) if access.auth_file else None)
        return
    RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RUN, prefix="registry-") as folder:
        config = Path(folder, "config.json")
        secret = base64.b64encode(f"{access.username}:{access.password}".encode()).decode()
        host = location.rpartition("://")[2].split("/")[0]
        with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump({"auths": {host: {"auth": secret}}}, file)
        yield Registry(runner, location, tag, access, config)
