# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""manifest.json, schema 2: what must be in it, and the refusal of anything else, with the path of the key that is wrong.

Pure: text or values in, a checked manifest or an error out. Files are read in _golden.py; docs/golden-checkpoint.md explains the keys.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re

from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

SCHEMA = 2


class Maybe:
    """The rule for a value that may be null, or a key that may be left out."""

    def __init__(self, rule):
        self.rule = rule


GPU = {"name": str, "uuid": str, "compute_capability": str, "memory_total": int}
# A type, a dictionary of keys that must be there (others may be, too), or a list of one rule for every item.
SHAPE = {
    "schema": int,
    "created": str,
    "class": str,
    "host": {
        **dict.fromkeys(("hostname", "architecture", "kernel", "cgroups", "podman", "runtime", "runtime_version", "criu", "lsm"), str),
        "cpu": {"vendor": str, "model": str, "flags": str, "criu": str},
        "driver": str,
        "gpus": [GPU],
    },
    "engine": {"name": str, "version": Maybe(str)},
    "model": Maybe(str),
    "oracle": Maybe({"prompt": Maybe(str), "tokens": [str], "first_token": Maybe(float)}),
    "container": {
        **dict.fromkeys(("id", "name", "image", "image_id", "runtime", "network"), str),
        "image_digest": Maybe(str),
        "command": [str],
        "environment_names": [str],
        "mounts": [{"source": str, "destination": str, "options": [str]}],
        "ports": [{"host_ip": str, "host_port": int, "container_port": int, "protocol": str}],
        "findings": [{"code": str, "item": str}],
    },
    "archive": {"file": str, "size": int, "compression": str, "chunk_size": int, "chunks": [str], "digest": str, "parts": dict},
    "gpu": {
        **dict.fromkeys(("method", "engine", "url"), str),
        "gpu_memory": dict,
        "gpus": [GPU],
        "sleep_level": int,
    },
    "timings": dict,
    "metadata": dict,
}
NAMES = {str: "a text", int: "a whole number", float: "a number", dict: "a dictionary", list: "a list"}


def digest_of(chunks: list[str]) -> str:
    """An archive's identity: the SHA-256 over the digests of its chunks."""
    return hashlib.sha256("".join(chunks).encode()).hexdigest()


def parse(text: str | bytes, where: str) -> dict:
    """The manifest in `text`, checked; `where` names it in errors."""
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise WarmstartError("manifest_invalid", f"{where} is not JSON: {error}") from None
    return checked(manifest, where)


def checked(manifest, where: str) -> dict:
    """`manifest` if it is one of this schema. Raises manifest_schema and manifest_invalid."""
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise WarmstartError("manifest_invalid", f"{where} is not a manifest: it names no schema.")
    if schema != SCHEMA:
        older = "Bake a new version" if schema < SCHEMA else "Update the collection"
        raise WarmstartError("manifest_schema", f"{where} has schema {schema}, this collection reads {SCHEMA}. {older}.")
    require(manifest, SHAPE, where, "")
    require_consistent(manifest, where)
    return manifest


def require(value, rule, where: str, path: str) -> None:
    if isinstance(rule, Maybe):
        if value is not None:
            require(value, rule.rule, where, path)
        return
    wanted = type(rule) if isinstance(rule, (dict, list)) else rule
    accepted = (int, float) if wanted is float else wanted
    if not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool):
        raise WarmstartError("manifest_invalid", f"{where}: {path} must be {NAMES[wanted]}, not {shown(value)}.")
    if isinstance(rule, dict):
        for key, inner in rule.items():
            below = f"{path}.{key}" if path else key
            if key not in value and not isinstance(inner, Maybe):
                raise WarmstartError("manifest_invalid", f"{where}: {below} is missing.")
            require(value.get(key), inner, where, below)
    elif isinstance(rule, list):
        for index, item in enumerate(value):
            require(item, rule[0], where, f"{path}[{index}]")


def require_consistent(manifest: dict, where: str) -> None:
    """What types do not say: the chunks make up the archive and its digest, the time is one, and the file is beside the manifest."""
    archive = manifest["archive"]
    count = -(-archive["size"] // archive["chunk_size"]) if archive["chunk_size"] > 0 else -1
    wrong = [
        ("created", "a time (ISO 8601)", is_time(manifest["created"])),
        ("archive.file", "the name of a file beside the manifest", bool(re.fullmatch(r"[^/\0]+", archive["file"]))),
        ("archive.chunks", "a SHA-256 in hex for each chunk", all(re.fullmatch("[0-9a-f]{64}", chunk) for chunk in archive["chunks"])),
        ("archive.chunks", f"as many as chunk_size and size say ({count})", len(archive["chunks"]) == count),
        ("archive.digest", "the SHA-256 over archive.chunks", archive["digest"] == digest_of(archive["chunks"])),
    ]
    for path, wanted, right in wrong:
        if not right:
            raise WarmstartError("manifest_invalid", f"{where}: {path} must be {wanted}.")


def is_time(text: str) -> bool:
    try:
        return datetime.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def shown(value) -> str:
    return "null" if value is None else NAMES.get(type(value), type(value).__name__)
