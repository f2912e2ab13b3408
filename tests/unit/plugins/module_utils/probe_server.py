# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server on 127.0.0.1 that answers what it is told to, byte for byte, and what Debian's llama-server (0.7.0) answered once.

The answers are captures/llama_server_*.http.bin. Used by test_stream.py, test_probe_wait.py and test_probe_tokens.py.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from http.client import HTTPResponse, IncompleteRead
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

CAPTURES = Path(__file__).parents[2] / "captures"
COMPLETIONS = [" w90", " w245", " w436", " w220", " w245", "\ufffd w220", " w506"]
CHAT = [" w263", " w523", " w257", "A", " w31", " w220", " w263", " w31"]


def captured(name: str) -> bytes:
    return (CAPTURES / f"llama_server_{name}.http.bin").read_bytes()


def body_of(answer: bytes) -> bytes:
    """The body of a captured answer, without the chunk sizes; what there is of it, if it was cut."""

    class Wire:
        def makefile(self, _mode):
            return BytesIO(answer)

    response = HTTPResponse(Wire())
    response.begin()
    try:
        return response.read()
    except IncompleteRead as error:
        return error.partial


def answer(status: str, body: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body.encode())}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body.encode()


class Server:
    """Answers each path with the next of its scripted answers, then with the last one again and again.

    An answer is a list of bytes (sent) and floats (seconds to sleep). Remembers the requests in `asked`.
    """

    def __init__(self, **paths):
        self.paths = {"/health": captured("health_ok"), "/v1/models": captured("models"), **paths}
        self.asked: list[tuple[str, dict, bytes]] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.reply, args=(connection,), daemon=True).start()

    def reply(self, connection):
        with connection, connection.makefile("rb") as request:
            line = request.readline()
            if not line.endswith(b" HTTP/1.1\r\n"):
                return
            path = line.split()[1].decode()
            headers = {}
            while line := request.readline().strip():
                name, _colon, value = line.decode().partition(": ")
                headers[name.lower()] = value
            seen = sum(path == old for old, _headers, _body in self.asked)
            self.asked.append((path, headers, request.read(int(headers.get("content-length", 0)))))
            script = self.paths.get(path, answer("404 Not Found", "nothing here"))
            script = script if isinstance(script, tuple) else (script,)
            step = script[min(seen, len(script) - 1)]
            for part in step if isinstance(step, list) else [step]:
                try:
                    time.sleep(part) if isinstance(part, float) else connection.sendall(part)
                except OSError:
                    return


@contextlib.contextmanager
def fails(code: str, *words: str):
    """The block must raise this reason, and its message must hold these words."""
    caught = SimpleNamespace(error=None)
    try:
        yield caught
    except WarmstartError as error:
        caught.error = error
    assert caught.error, f"nothing failed, {code} was expected"
    missing = [word for word in words if word not in str(caught.error)]
    assert (caught.error.reason.code, missing) == (code, []), str(caught.error)
