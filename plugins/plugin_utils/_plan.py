# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a benchmark is to do: the methods as an operator declares them, checked and completed, their checkpoints, and a row per iteration.

Touches nothing; used by action benchmark_plan. What the rows hold in the end is in docs/report.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

# Kinds of methods, and what the container is called that holds what each of them starts from.
CONTAINERS = {
    "cold": "",
    "restore_in_place": "-in-place",
    "restore_archive": "",
    "suspend_resume": "-suspended",
    "checkpoint": "-checkpoint",
}
SHORT = {"cold_page_cache": {"method": "cold", "page_cache": "cold"}}
SHARED = ("criu_path", "criu_config", "tcp_established", "ignore_rootfs", "ignore_volumes")
# Options of podman_checkpoint and podman_restore that a method may set.
CHECKPOINT = (*SHARED, "compress", "file_locks", "sleep_level", "gpu_method", "lock_timeout")
RESTORE = (*SHARED, "thp", "tcp_close", "ignore_static_ip", "ignore_static_mac")
KEYS = {
    "cold": ("page_cache",),
    "restore_in_place": ("page_cache", "checkpoint", "restore"),
    "restore_archive": ("page_cache", "checkpoint", "restore", "store"),
    "suspend_resume": ("page_cache", "checkpoint", "restore"),
    "checkpoint": ("page_cache", "checkpoint", "store", "archive"),
}
NOT_RUN = {"reason": "not_run", "msg": "The host failed or became unreachable before this iteration."}


def method(given: str | dict) -> dict:
    """One entry of benchmark_methods, complete. Raises ValueError that says what is wrong with it."""
    entry = {"name": given, **SHORT.get(given, {"method": given})} if isinstance(given, str) else given
    if not isinstance(entry, dict) or not {"name", "method"} <= set(entry):
        raise ValueError(f"benchmark_methods: {given!r} is neither a name nor a dictionary with name and method.")
    name, kind = entry["name"], entry["method"]
    where = f"benchmark_methods, {name!r}"
    if not re.fullmatch(r"[\w+-]{1,60}", str(name)):
        raise ValueError(f"{where}: a name has up to 60 letters, digits, _, + and -.")
    if kind not in KEYS:
        raise ValueError(f"{where}: there is no method {kind!r}; there are {', '.join([*KEYS, *SHORT])}.")
    unknown_keys(where, entry, ("name", "method", *KEYS[kind]))
    if entry.get("page_cache", "warm") not in ("warm", "cold"):
        raise ValueError(f"{where}: page_cache is {entry['page_cache']!r}; it is warm or cold.")
    for key, known in (("checkpoint", CHECKPOINT), ("restore", RESTORE)):
        if not isinstance(entry.get(key, {}), dict):
            raise ValueError(f"{where}: {key} must be a dictionary of options.")
        unknown_keys(f"{where}, {key}", entry.get(key, {}), known)
    if not str(entry.get("store", "/")).startswith("/"):
        raise ValueError(f"{where}: store is {entry['store']!r}; it must be an absolute path.")
    return {
        **{"name": name, "kind": kind, "page_cache": entry.get("page_cache", "warm"), "store": entry.get("store")},
        **{"checkpoint": entry.get("checkpoint", {}), "restore": entry.get("restore", {}), "archive": entry.get("archive", True)},
    }


def unknown_keys(where: str, given: dict, known: Sequence[str]) -> None:
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"{where}: there is no {', '.join(map(str, unknown))}; there are {', '.join(known)}.")


def methods(given: Sequence[str | dict]) -> list[dict]:
    complete = [method(entry) for entry in given]
    names = [entry["name"] for entry in complete]
    if not names:
        raise ValueError("benchmark_methods is empty.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"benchmark_methods: {twice[0]!r} is there twice; give each a name of its own.")
    return complete


def with_checkpoints(complete: Sequence[dict], name: str, store: str) -> tuple[list[dict], list[dict]]:
    """The methods with their container, checkpoint and archive, and the checkpoints; equal ones are shared.

    A method of kind checkpoint starts from a checkpoint in place too, and writes its own archive.
    """
    checkpoints: dict[str, dict] = {}
    placed = []
    for entry in complete:
        kind, container = entry["kind"], f"{name}-benchmark{CONTAINERS[entry['kind']]}"
        folder = f"{entry['store'] or store}/{name}-benchmark"
        key = json.dumps([kind, entry["store"], entry["checkpoint"]], sort_keys=True)
        if kind != "cold" and key not in checkpoints:
            number = sum(taken["kind"] == kind for taken in checkpoints.values()) + 1
            label = f"{CONTAINERS[kind][1:] or 'archive'}{'' if number == 1 else f'-{number}'}"
            checkpoints[key] = {
                **{"id": label, "kind": kind, "name": entry["name"], "folder": folder, "archive": f"{folder}/{label}/checkpoint.tar"},
                "container": container if kind == "restore_archive" or number == 1 else f"{container}-{number}",
                # What is measured of kind checkpoint is the second one.
                "options": {} if kind == "checkpoint" else entry["checkpoint"],
            }
        taken = checkpoints.get(key, {"id": None, "container": container, "archive": None, "folder": folder})
        placed.append(
            {**entry, "checkpoint_id": taken["id"], "container": taken["container"], "archive_path": taken["archive"], "folder": folder}
        )
    return placed, list(checkpoints.values())


def rows(complete: Sequence[dict], host: str, iterations: int, warmup: int) -> list[dict]:
    """One row per iteration, the first iteration of all methods before the second, as if none had been run. Warm-ups end with 0."""
    about = {"host": host, "ok": False, "seconds": {}, "path_taken": None, **NOT_RUN}
    return [
        {**about, "method": entry["name"], "kind": entry["kind"], "iteration": iteration}
        for iteration in range(1 - warmup, iterations + 1)
        for entry in complete
    ]


def digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
