# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is dangerous in a checkpoint: whoever wrote spec.dump and config.dump runs as root where they are restored.

Pure: the two files' content in, findings out. podman_checkpoint_info reports them, a manifest records those of its own container, and
a restore refuses any that nobody expects. The files are read in _archive.py.
"""

from __future__ import annotations

import os
import re

from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

# A finding is refused as reason unexpected_CODE, unless option `expect` names it; a `path` is never expected.
EXPECTABLE = ("hook", "criu_config", "mount", "privileged")
# What the manifest beside an archive may vouch for without a signature: what its own server was declared with.
DECLARABLE = ("mount", "privileged")
# CDI puts these hooks of NVIDIA's into every GPU container.
NVIDIA_HOOK = re.compile(r"/usr/(?:local/)?(?:bin|nvidia/toolkit)/nvidia-(?:cdi-hook|ctk)")
PSEUDO_FILESYSTEMS = ("proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2")
# podman's default set has none of these; each of them is as good as root on the host.
CAPABILITIES = (
    "SYS_ADMIN",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_PTRACE",
    "SYS_BOOT",
    "BPF",
    "DAC_READ_SEARCH",
    "MAC_ADMIN",
    "NET_ADMIN",
)


def find(config: dict, spec: dict, deleted: list, names: list[str]) -> list[dict]:
    """Findings {code, item} in the checkpoint; `deleted`: content of deleted.files, `names`: the archive's members."""
    found = []
    for part in (spec, config.get("spec") or {}):
        for stage, hooks in (part.get("hooks") or {}).items():
            found += [("hook", f"{stage}: {hook.get('path', '')}") for hook in hooks or []]
        found += [
            ("criu_config", f"{key}={value}") for key, value in (part.get("annotations") or {}).items() if key.startswith("org.criu.")
        ]
        bounding = ((part.get("process") or {}).get("capabilities") or {}).get("bounding") or []
        found += [("privileged", name) for name in bounding if name[4:] in CAPABILITIES]
    if config.get("privileged"):
        found.append(("privileged", "--privileged"))
    # podman keeps no exit command in a checkpoint of its own, and would run one as root.
    found += [("hook", f"{key}: {' '.join(map(str, config[key]))}") for key in ("exitCommand", "hooksDir") if config.get(key)]
    found += [("mount", described(mount)) for mount in foreign_mounts(config, spec)]
    # podman before 5.8.2 removes what deleted.files names outside the container, too (podman#27977).
    found += [
        ("path", name) for name in [*names, *map(str, deleted)] if ".." in name.split("/") or (name in names and name.startswith("/"))
    ]
    return [{"code": code, "item": item} for code, item in dict.fromkeys(found)]


def foreign_mounts(config: dict, spec: dict) -> list[dict]:
    """The mounts of spec.dump that bring something of the host: all but the pseudo filesystems and podman's own files."""
    own = re.compile(rf"/.+-containers/{re.escape(config.get('id') or '-')}/userdata/[^/]+")
    return [
        mount
        for mount in spec.get("mounts") or []
        if (mount.get("type") not in PSEUDO_FILESYSTEMS or {"bind", "rbind"} & set(mount.get("options") or []))
        # podman's own files for the container (hosts, resolv.conf, ...) are made anew by a restore
        and not (own.fullmatch(mount.get("source", "")) and os.path.normpath(mount["source"]) == mount["source"])
    ]


def described(mount: dict) -> str:
    """SOURCE:DESTINATION:ro or :rw, the same for the declared, recorded and restored form of a mount."""
    return f"{mount.get('source', '')}:{mount['destination']}:{'ro' if 'ro' in (mount.get('options') or []) else 'rw'}"


def require_expected(found: list[dict], manifest: dict | None, signed: bool, declared: dict | None, expect: list[str]) -> None:
    """Refuse the first of `found` that nobody expects.

    Expected is what option `expect` names, what a signed manifest records, what any manifest records of mounts, privileges and CDI's
    own hooks, and what the declared server asks for.
    """
    recorded = {(item["code"], item["item"]) for item in (manifest["container"]["findings"] if manifest else [])}
    for item in found:
        code, text = item["code"], item["item"]
        vouched = signed or code in DECLARABLE or NVIDIA_HOOK.fullmatch(text.rpartition(": ")[2])
        if code in EXPECTABLE and (code in expect or (vouched and (code, text) in recorded)):
            continue
        if declared and is_declared(code, text, declared):
            continue
        raise WarmstartError(f"unexpected_{code}", f"It would bring {text}.")


def is_declared(code: str, text: str, server: dict) -> bool:
    args = server.get("args") or []
    if code == "privileged":
        added = {value.partition("=")[2] or following for value, following in zip(args, [*args[1:], ""]) if value.startswith("--cap-add")}
        return "--privileged" in args or (text != "--privileged" and bool(added & {text, text[4:], "all", "ALL"}))
    if code != "mount":
        return False
    source, destination, mode = text.rsplit(":", 2)
    for volume in server.get("volumes") or []:
        given, inside, options = (*volume.split(":", 2), "", "")[:3]
        named = f"/volumes/{given}/_data"
        if inside == destination and (given == source or source.endswith(named)) and (mode == "ro" or "ro" not in options.split(",")):
            return True
    return False
