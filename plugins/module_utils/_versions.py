# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The versions of a golden checkpoint on a host: the links `current` and `previous`, and how many versions are kept.

Touches the folder NAME of one golden checkpoint. What a version holds is in _golden.py.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

LINKS = ("current", "previous")
# What an interrupted copy, checkpoint or unpacking leaves: it holds the server's memory, too.
LEFTOVERS = (".*.partial", ".ansible_tmp*", ".*.removed")


def state_of(folder: Path) -> dict:
    """current and previous (versions, or empty) and all versions, the newest first."""
    versions = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()] if folder.is_dir() else []
    versions.sort(key=lambda path: (age(path), path.name), reverse=True)
    return {
        **{link: target(folder / link) for link in LINKS},
        "versions": [path.name for path in versions if not path.name.startswith(".")],
    }


def age(version: Path) -> float:
    """When the version became whole; 0 for one that is not."""
    try:
        return (version / "manifest.json").stat().st_mtime
    except OSError:
        return 0.0


def target(link: Path) -> str:
    """The version that a link names; empty where there is none, or it is gone."""
    return os.readlink(link) if link.is_symlink() and link.is_dir() else ""


def plan(folder: Path, version: str | None, keep: int) -> dict:
    """What apply() is to do: state_of() as it will be, and `removed`, the names below `folder` that will go."""
    if keep < 1:
        raise WarmstartError("bad_input", f"keep is {keep}: at least the current version is kept.")
    state = state_of(folder)
    current, previous = state["current"], state["previous"]
    if version is not None:
        if version in LINKS or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]*", version):
            raise WarmstartError(
                "bad_input", f"version {version!r}: letters, digits and . _ + - make a version, but neither current nor previous."
            )
        if version not in state["versions"] or not age(folder / version):
            raise WarmstartError("archive_missing", f"{folder / version} holds no golden checkpoint.")
        if version != current:
            current, previous = version, current
    order = dict.fromkeys(name for name in (current, previous, *state["versions"]) if name)
    kept = [name for name in order if name == current or age(folder / name)][:keep]
    removed = [name for name in state["versions"] if name not in kept]
    left = [path for pattern in LEFTOVERS for part in (folder, *(folder / name for name in kept)) for path in part.glob(pattern)]
    return {
        "current": current,
        "previous": previous if previous in kept and previous != current else "",
        "versions": [name for name in state["versions"] if name in kept],
        "removed": sorted([*removed, *(str(path.relative_to(folder)) for path in left)]),
    }


def is_done(folder: Path, planned: dict) -> bool:
    return not planned["removed"] and state_of(folder) == {key: planned[key] for key in (*LINKS, "versions")}


def apply(folder: Path, planned: dict) -> None:
    """Move the links, each at once, then remove; a version loses its name first, so that nobody meets half of one."""
    for link in LINKS:
        point(folder / link, planned[link])
    for name in planned["removed"]:
        path = folder / name
        if path.is_dir() and not path.name.startswith("."):
            path = path.rename(folder / f".{path.name}.removed")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def point(link: Path, version: str) -> None:
    if not version:
        link.unlink(missing_ok=True)
    elif not link.is_symlink() or os.readlink(link) != version:
        partial = link.with_name(f".{link.name}.partial")
        partial.unlink(missing_ok=True)
        partial.symlink_to(version)
        partial.replace(link)
