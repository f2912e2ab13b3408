# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock that a rollout holds on a host while it works there: a file under /run that says who holds it.

Touches /run/gpufleet-warmstart/rollout.lock. It must outlive the modules of a rollout, so it is no lock of the kernel's; who holds one and
is gone is found out by action plugin rollout_lock, on the controller.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils._golden import RUN
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

LOCK = RUN / "rollout.lock"


def holder_of(lock: Path) -> dict | None:
    """Who holds the lock: controller, user, pid, began (of that process), what, since; None if nobody does."""
    try:
        return json.loads(lock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}  # nobody writes half a lock, so it is damaged, and held by nobody


def same(one: dict, other: dict) -> bool:
    return all(one.get(key) == other.get(key) for key in ("controller", "user", "pid", "began"))


def acquire(wanted: dict, gone: dict | None, lock: Path = LOCK) -> None:
    """Take the lock for `wanted`, from `gone` too if that still holds it; nothing happens if `wanted` has it. Raises locked."""
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mine = lock.with_name(f"{lock.name}.{os.getpid()}")
    mine.write_text(json.dumps({**wanted, "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}), encoding="utf-8")
    try:
        os.link(mine, lock)  # fails if there is one, and is never half there
    except FileExistsError:
        holder = holder_of(lock)
        if holder and same(holder, wanted):
            return
        if holder and not (gone and same(holder, gone)):
            told = "{user} on {controller} (process {pid}) has rolled out {what} since {since}; the lock is {lock}."
            raise WarmstartError("locked", told.format(lock=lock, **holder), holder=holder) from None
        mine.replace(lock)
    finally:
        mine.unlink(missing_ok=True)


def release(wanted: dict, lock: Path = LOCK) -> None:
    """Give the lock up, if `wanted` holds it."""
    if same(holder_of(lock) or {}, wanted):
        lock.unlink(missing_ok=True)
