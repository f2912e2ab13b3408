# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Engine profiles: what each inference server needs so that it can be frozen, and how it is put to sleep and woken.

Data more than code. apply() merges a profile into a declared server, whose own values always win; sleep() and wake()
touch the engine's HTTP API only. Sources: field notes of real runs (vLLM 0.26.0 on an H100, driver 580), the engines' documentation.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ansible_collections.gpufleet.warmstart.plugins.module_utils._probe import need
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

SECCOMP_PROFILE = "/etc/gpufleet-warmstart/seccomp-no-io-uring.json"
LIBRARY_FOLDER = "/opt/nvidia-libs"


@dataclass(frozen=True)
class Engine:
    """One engine. env and arguments: {name: (value, why)}; an argument without a value has None.

    sleep, wake: path to POST; levels: the sleep levels it takes, as the query parameter `level`. own_connections: its
    processes hold TCP connections among themselves (torch's store), which a checkpoint must include.
    """

    name: str
    env: dict[str, tuple[str, str]] = field(default_factory=dict)
    arguments: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    seccomp: bool = False
    sleep: str = ""
    wake: str = ""
    levels: tuple[int, ...] = ()
    own_connections: bool = False


ASYNC_ENV = {
    "ASYNCIO_DEFAULT_BACKEND": ("select", "asyncio without io_uring, which CRIU cannot dump"),
    "PYTHON_ASYNCIO_NO_IO_URING": ("1", "asyncio without io_uring, which CRIU cannot dump"),
    "UV_USE_IO_URING": ("0", "libuv (uvloop) without io_uring, which CRIU cannot dump"),
    "HF_HUB_OFFLINE": ("1", "no connection to a model hub, which no other host could restore; mount the model"),
}

ENGINES = {
    engine.name: engine
    for engine in (
        Engine(
            "vllm",
            env={
                **ASYNC_ENV,
                "VLLM_HOST_IP": ("127.0.0.1", "torch binds this address: the host's own would fit one host only"),
                "VLLM_NO_USAGE_STATS": ("1", "no connection to the outside, which no other host could restore"),
                "VLLM_SERVER_DEV_MODE": ("1", "opens /sleep and /wake_up, so that the KV pool is not in the checkpoint"),
            },
            arguments={
                "--enable-sleep-mode": (None, "lets it sleep before a checkpoint: 8 GB instead of the whole GPU"),
                "--load-format": ("safetensors", "weights come from mapped files"),
            },
            seccomp=True,
            sleep="/sleep",
            wake="/wake_up",
            levels=(1, 2),
            own_connections=True,
        ),
        Engine(
            "sglang",
            env=ASYNC_ENV,
            arguments={"--enable-memory-saver": (None, "lets it release its GPU memory before a checkpoint")},
            seccomp=True,
            sleep="/release_memory_occupation",
            wake="/resume_memory_occupation",
            own_connections=True,
        ),
        Engine("llama_cpp"),
        Engine("openai"),
    )
}


def apply(server: dict) -> tuple[dict, list[dict]]:
    """`server` with what its engine's profile adds, and [{item, why}] of all that was added. The user's values win."""
    engine = ENGINES[server.get("engine") or "openai"]
    env, command, args = dict(server.get("env") or {}), list(server.get("command") or []), list(server.get("args") or [])
    added = []
    for key, (value, why) in engine.env.items():
        if key not in env:
            env[key] = value
            added.append({"item": f"{key}={value}", "why": why})
    if any(volume.split(":")[1:2] == [LIBRARY_FOLDER] for volume in server.get("volumes") or []) and "LD_LIBRARY_PATH" not in env:
        env["LD_LIBRARY_PATH"] = LIBRARY_FOLDER
        added.append({"item": f"LD_LIBRARY_PATH={LIBRARY_FOLDER}", "why": "the driver's libraries are mounted there"})
    if command:  # the arguments of an image's own command are not known here
        for argument, (value, why) in engine.arguments.items():
            if not any(given == argument or given.startswith(argument + "=") for given in command):
                command += [argument] if value is None else [argument, value]
                added.append({"item": f"{argument} {value or ''}".strip(), "why": why})
    if engine.seccomp and not any("seccomp=" in given for given in args):
        args += ["--security-opt", f"seccomp={SECCOMP_PROFILE}"]
        added.append({"item": f"--security-opt seccomp={SECCOMP_PROFILE}", "why": "answers ENOSYS to io_uring, which CRIU cannot dump"})
    return {**server, "env": env, "command": command, "args": args}, added


def own_connections(name: str) -> bool:
    """Whether the engine's processes are connected to each other; False for a container whose engine nobody named."""
    return name in ENGINES and ENGINES[name].own_connections


def sleep(name: str, url: str, level: int = 1, timeout: float = 300.0) -> float:
    """Put the engine to sleep; seconds it took. An engine that cannot, or was not started so that it can, is let be (0)."""
    engine = ENGINES[name]
    if not engine.sleep:
        return 0.0
    query = f"?level={level}" if engine.levels else ""
    return post(url + engine.sleep + query, missing_is_fine=True, timeout=timeout)


def wake(name: str, url: str, level: int = 1) -> float:
    """Wake the engine from a sleep of that level; seconds it took."""
    engine = ENGINES[name]
    if level < 2:
        return post(url + engine.wake)
    # Level 2 has dropped the weights: they are loaded again before the KV pool comes back.
    return (
        post(url + engine.wake + "?tags=weights")
        + post(url + "/collective_rpc", {"method": "reload_weights"})
        + post(url + engine.wake + "?tags=kv_cache")
    )


def post(url: str, body: dict | None = None, missing_is_fine: bool = False, timeout: float = 300.0) -> float:
    """POST; seconds it took, 0 where there is no such path and that is fine. Raises engine_refused."""
    httpx = need("httpx")
    started = time.monotonic()
    try:
        # The connection is closed at once: an open one in the server would be in the checkpoint.
        response = httpx.post(url, json=body or {}, timeout=timeout, trust_env=False, headers={"connection": "close"})
    except httpx.HTTPError as error:
        raise WarmstartError("engine_refused", f"POST {url}: {error}") from None
    if response.status_code == 404 and missing_is_fine:
        return 0.0
    if response.status_code != 200:
        raise WarmstartError("engine_refused", f"POST {url} was answered {response.status_code}.")
    return time.monotonic() - started
