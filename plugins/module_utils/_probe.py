# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe: poll an inference server until it is healthy, then ask for tokens and time the first one.

Touches the server's HTTP API only, and changes nothing there. The events of its stream are read in _stream.py; the
options are documented in plugins/doc_fragments/probe.py.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import ssl
import time
from collections.abc import Callable, Iterator

from ansible.module_utils.basic import missing_required_lib
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError
from ansible_collections.gpufleet.warmstart.plugins.module_utils._stream import content_pieces

PROBE_OPTIONS = {
    "url": {"type": "str", "required": True},
    "health_path": {"type": "str", "default": "/health"},
    "timeout": {"type": "float", "default": 300.0},
    "interval": {"type": "float", "default": 0.01},
    "condition": {"type": "str"},
    "model": {"type": "str"},
    "warmup_requests": {"type": "int", "default": 0},
    "first_token": {"type": "bool", "default": False},
    "api": {"type": "str", "choices": ["completions", "chat"], "default": "completions"},
    "prompt": {"type": "str", "default": "The capital of France is"},
    "max_tokens": {"type": "int", "default": 16, "no_log": False},
    "headers": {"type": "dict", "no_log": True},
}

# The option `probe` of the modules that start a server: the same, but the first token is what they are asked for.
PROBE_SUBOPTION = {"type": "dict", "options": {**PROBE_OPTIONS, "first_token": {"type": "bool", "default": True}}}

BACK_OFF_AFTER = 5.0  # seconds; from here on the pause grows with the time waited, so its share stays the same
LONGEST_PAUSE = 0.5
CONNECT_PATIENCE = 0.5  # a lost SYN is sent again after 1 s: a new connection is faster
ANSWER_PATIENCE = 1.0  # doubled after each answer that took longer
ALIVE_EVERY = 0.2
LARGEST_BODY = 4 << 20


class Probe:
    """Waits for one server and times it. `options` are those of PROBE_OPTIONS; bad ones raise `bad_input` here.

    alive: called at most every 0.2 s while the server does not answer; raises WarmstartError to end the wait. It runs
    between two polls, so it should take a millisecond: look at the PID, do not run podman.
    """

    def __init__(self, options: dict, alive: Callable[[], None] | None = None) -> None:
        # Imported here, since it takes 0.1 to 0.3 s that must not be on anybody's clock.
        self._httpx = need("httpx")
        self._options = {name: spec.get("default") if options.get(name) is None else options[name] for name, spec in PROBE_OPTIONS.items()}
        self.prompt = self._options["prompt"]
        self._check_numbers()
        self.url = self._base_url()  # public: others check who listens there
        self._headers = self._checked_headers()
        self._condition = self._compiled_condition()
        self._alive, self._alive_at = alive, 0.0
        self._model = None
        self._last_answer: dict = {}
        self._client = self._httpx.Client(
            headers={"accept-encoding": "identity", **self._headers, "connection": "close"},
            verify=ssl.create_default_context() if self.url.startswith("https:") else False,
            # A server that was just restored may have dropped its old connections: every request has its own, and the
            # server closes it first, so that none is open in it when a checkpoint follows.
            limits=self._httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
        )

    def run(self, started: float | None = None) -> dict:
        """Wait until healthy, check the model, send the warm-up requests, time the first token: as far as asked for.

        started: a time.monotonic() from which `healthy_after` counts, else now.
        """
        options = self._options
        result = self.wait_healthy(started)
        try:
            if options["model"] or options["warmup_requests"] or options["first_token"]:
                result["model"] = self.model()
            result["warmup"] = []
            for _request in range(options["warmup_requests"]):
                result["warmup"].append(self._generate()["seconds"])
            if options["first_token"]:
                result.update(self.first_token())
        except WarmstartError as error:
            error.facts["probe"] = {**result, **error.facts.get("probe", {})}
            raise
        return result

    def wait_healthy(self, started: float | None = None) -> dict:
        """Poll until the server is healthy and the condition is true: healthy_after, attempts, status."""
        began = time.monotonic()
        deadline = began + self._options["timeout"]
        interval, patience, attempts = self._options["interval"], ANSWER_PATIENCE, 0
        while True:
            attempts += 1
            failure = self._poll(patience, deadline)
            now = time.monotonic()
            if failure is None:
                healthy_after = now - (began if started is None else started)
                return {"healthy_after": healthy_after, "attempts": attempts, "status": self._last_answer["status"]}
            self._check_alive()
            if now >= deadline:
                detail = f"Gave up after {now - began:.1f} s and {attempts} requests. The last: {failure.detail}"
                raise self._failure(failure.reason.code, detail, attempts=attempts)
            if failure.facts.get("slow"):
                patience *= 2
            pause = min(interval * max(1.0, (now - began) / BACK_OFF_AFTER), max(interval, LONGEST_PAUSE))
            time.sleep(max(0.0, min(pause, deadline - time.monotonic())))

    def first_token(self) -> dict:
        """Ask for max_tokens tokens, greedily: first_token (seconds from sending), tokens (as they came), text, model."""
        answer = self._generate()
        return {
            "first_token": answer["first_token"],
            "tokens": answer["tokens"],
            "text": "".join(answer["tokens"]),
            "model": self.model(),
        }

    def model(self) -> str:
        """The model to ask: the one in the options, which the server must list, else the first that it lists."""
        if self._model is None:
            wanted = self._options["model"]
            status, text = self._get_models()
            if wanted and status in (404, 405):  # a server without a list: only its answer can tell
                self._model = wanted
                return wanted
            listed = self._model_ids(status, text)
            if (wanted or listed[0]) not in listed:
                names = ", ".join(map(repr, listed))
                raise self._failure("wrong_model", f"{wanted!r} was asked for; GET {self.url}/v1/models lists {names}.")
            self._model = wanted or listed[0]
        return self._model

    # -- health ------------------------------------------------------------------------------------------------------

    def _poll(self, patience: float, deadline: float) -> WarmstartError | None:
        """Ask once. None when healthy, else why not; raises what waiting cannot heal."""
        what = f"GET {self.url}{self._options['health_path']}"
        now = time.monotonic()
        left = max(deadline - now, 0.1)  # the last poll starts at the deadline
        patience = min(patience, left)
        connect = patience if self.url.startswith("https:") else min(patience, CONNECT_PATIENCE)
        try:
            with self._client.stream("GET", what[4:], timeout=self._httpx.Timeout(patience, connect=connect)) as response:
                text = self._read(response, now + left)
        except self._httpx.HTTPError as error:
            return self._transport_failure(error, what, "unhealthy")
        self._last_answer = {"status": response.status_code, "body": self._excerpt(text)}
        if 300 <= response.status_code < 400:
            target = response.headers.get("location")
            raise self._failure("unhealthy", f"{what} was redirected ({response.status_code}) to {target}: set url to where the server is.")
        if response.status_code >= 400:
            # 503 is how servers say that they still load.
            code = "timed_out" if response.status_code == 503 else "unhealthy"
            return WarmstartError(code, f"{what} was answered {response.status_code}: {self._excerpt(text)}")
        return self._condition_failure(text, what)

    def _condition_failure(self, text: str, what: str) -> WarmstartError | None:
        if self._condition is None:
            return None
        condition = self._options["condition"]
        try:
            value = self._condition.search(json.loads(text))
        except ValueError as error:  # not JSON, or not what a function in the condition takes: both may change
            return WarmstartError("condition_false", f"{condition} on {what}: {error}. Answer: {self._excerpt(text)}")
        if value is None or value is False or value in ("", [], {}):
            return WarmstartError("condition_false", f"{condition} is {json.dumps(value)} on {what}. Answer: {self._excerpt(text)}")
        return None

    def _check_alive(self, now: bool = False) -> None:
        if self._alive and (now or time.monotonic() - self._alive_at >= ALIVE_EVERY):
            self._alive()
            self._alive_at = time.monotonic()

    # -- requests ----------------------------------------------------------------------------------------------------

    def _generate(self) -> dict:
        """One streamed request: first_token, seconds (to the end of the stream), tokens."""
        chat, path = self._options["api"] == "chat", "/v1/chat/completions" if self._options["api"] == "chat" else "/v1/completions"
        prompt = {"messages": [{"role": "user", "content": self._options["prompt"]}]} if chat else {"prompt": self._options["prompt"]}
        body = {"model": self.model(), **prompt, "max_tokens": self._options["max_tokens"], "temperature": 0, "stream": True}
        what, tokens, first = f"POST {self.url}{path}", [], None
        began = time.monotonic()
        deadline = began + self._options["timeout"]
        try:
            with self._client.stream("POST", what[5:], json=body, timeout=self._options["timeout"]) as response:
                if response.status_code != 200:
                    text = self._excerpt(self._read(response, deadline))
                    self._last_answer = {"status": response.status_code, "body": text}
                    raise self._failure("request_failed", f"{what} was answered {response.status_code}: {text}")
                for piece in content_pieces(self._chunks(response, deadline)):
                    first = time.monotonic() - began if first is None else first
                    tokens.append(piece)
        except self._httpx.HTTPError as error:
            self._check_alive(now=True)
            failure = self._transport_failure(error, what, "malformed_stream")
            raise self._failure(failure.reason.code, f"{failure.detail} (after {len(tokens)} tokens)") from None
        except ValueError as error:
            raise self._failure("malformed_stream", f"{what}: {self._excerpt(str(error))} (after {len(tokens)} tokens)") from None
        if first is None:
            raise self._failure("no_tokens", f"{what} ended after {time.monotonic() - began:.2f} s.")
        return {"first_token": first, "seconds": time.monotonic() - began, "tokens": tokens}

    def _get_models(self) -> tuple[int, str]:
        what, deadline = f"GET {self.url}/v1/models", time.monotonic() + self._options["timeout"]
        try:
            with self._client.stream("GET", what[4:], timeout=self._options["timeout"]) as response:
                return response.status_code, self._read(response, deadline)
        except self._httpx.HTTPError as error:
            self._check_alive(now=True)
            failure = self._transport_failure(error, what, "unhealthy")
            raise self._failure(failure.reason.code, failure.detail) from None

    def _model_ids(self, status: int, text: str) -> list[str]:
        what = f"GET {self.url}/v1/models"
        if status != 200:
            raise self._failure("request_failed", f"{what} was answered {status}: {self._excerpt(text)}")
        try:
            ids = [model["id"] for model in json.loads(text)["data"]]
        except (ValueError, KeyError, TypeError):
            raise self._failure("request_failed", f"{what} is not a list of models: {self._excerpt(text)}") from None
        if not ids:
            raise self._failure("wrong_model", f"{what} lists none.")
        return ids

    def _chunks(self, response, deadline: float) -> Iterator[bytes]:
        """The body as it comes, up to the deadline: httpx's own timeout only covers the wait for each piece."""
        for chunk in response.iter_bytes():
            yield chunk
            if time.monotonic() > deadline:
                raise self._httpx.ReadTimeout("the answer did not end in time")

    def _read(self, response, deadline: float) -> str:
        body = b""
        for chunk in self._chunks(response, deadline):
            body += chunk
            if len(body) > LARGEST_BODY:
                break
        return body.decode("utf-8", errors="replace")

    # -- failures ----------------------------------------------------------------------------------------------------

    def _transport_failure(self, error: Exception, what: str, closed: str) -> WarmstartError:
        """The failure for an httpx error; `closed` is the code where the server took the connection and broke it."""
        causes, cause = [], error
        while cause is not None:
            causes.append(cause)
            cause = cause.__cause__ or cause.__context__
        text = str(error).strip() or type(error).__name__
        if isinstance(error, self._httpx.TimeoutException):
            return WarmstartError("timed_out", f"{what} was not answered in time ({text}).", slow=True)
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return WarmstartError("refused", f"{what}: {text}.")
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            raise self._failure("unreachable", f"{what}: {text}.")
        if isinstance(error, self._httpx.ConnectError):
            return WarmstartError("unreachable", f"{what}: {text}.")
        return WarmstartError(closed, f"{what}: {text}.")

    def _failure(self, code: str, detail: str, **facts) -> WarmstartError:
        return WarmstartError(code, detail, probe={**self._last_answer, **facts})

    def _excerpt(self, text: str, length: int = 300) -> str:
        """The beginning of what a server said, on one line, without what a header keeps secret."""
        for secret in {word for value in self._headers.values() for word in value.split() if len(word) > 5}:
            text = text.replace(secret, "********")
        text = " ".join(text.split())
        return text if len(text) <= length else text[:length] + " ..."

    # -- options -----------------------------------------------------------------------------------------------------

    def _check_numbers(self) -> None:
        for name in ("timeout", "interval"):
            if not (self._options[name] > 0 and math.isfinite(self._options[name])):
                raise WarmstartError("bad_input", f"{name} is {self._options[name]:g}: it must be a number of seconds above 0.")
        for name, least in (("warmup_requests", 0), ("max_tokens", 1)):
            if self._options[name] < least:
                raise WarmstartError("bad_input", f"{name} is {self._options[name]}: it must be at least {least}.")

    def _base_url(self) -> str:
        given, path = self._options["url"], self._options["health_path"]
        if not path.startswith("/"):
            raise WarmstartError("bad_input", f"health_path is {path!r}: it must begin with a slash.")
        try:
            url = self._httpx.URL(given)
            self._httpx.URL(given.rstrip("/") + path)
        except (self._httpx.InvalidURL, ValueError, TypeError) as error:
            raise WarmstartError("bad_input", f"url with health_path is no URL: {error}.") from None
        if url.userinfo:
            raise WarmstartError("bad_input", "url holds a user name or password: put them into headers (Authorization).")
        if url.scheme not in ("http", "https") or not url.host or not 0 < (url.port or 80) < 65536 or url.query or url.fragment:
            raise WarmstartError("bad_input", f"url is {given!r}: it must be http://HOST:PORT or https://HOST:PORT.")
        if url.path.rstrip("/").endswith("/v1"):
            raise WarmstartError("bad_input", f"url is {given!r}: leave /v1 out, health_path is not below it.")
        return given.rstrip("/")

    def _checked_headers(self) -> dict[str, str]:
        headers = {str(name): str(value) for name, value in (self._options["headers"] or {}).items()}
        for name, value in headers.items():
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not re.fullmatch(r"[\x20-\x7e]*", value):
                raise WarmstartError("bad_input", f"header {name!r} has characters that HTTP does not allow in its name or value.")
        return headers

    def _compiled_condition(self):
        if not self._options["condition"]:
            return None
        jmespath = need("jmespath")
        try:
            condition = jmespath.compile(self._options["condition"])
            condition.search({})  # an unknown function is found no earlier
        except jmespath.exceptions.JMESPathTypeError:
            pass  # a function that does not take null; it may take what the server answers
        except jmespath.exceptions.JMESPathError as error:
            detail = " ".join(str(error).split())
            raise WarmstartError("bad_input", f"condition {self._options['condition']!r} is not jmespath: {detail}") from None
        return condition


def need(library: str):
    """Import a library that the managed host may lack."""
    try:
        return importlib.import_module(library)
    except ImportError:
        raise WarmstartError("dependency_missing", missing_required_lib(library)) from None
