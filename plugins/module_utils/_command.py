# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run commands on the managed host: lists only, C locale, timed on the monotonic clock, all of them remembered.

Touches what the command touches. Failures become reasons (_reason.py). Secrets are passed in `env`, never in argv,
so that neither the process list nor the returned `commands` show them.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass

from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError, explain


@dataclass(frozen=True)
class Result:
    """What a finished command left: exit status, text printed, and wall-clock seconds."""

    argv: list[str]
    rc: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def output(self) -> str:
        return "\n".join(part for part in (self.stderr.strip(), self.stdout.strip()) if part)


class Runner:
    """Runs commands and keeps their argv in `commands`, in order, as the modules return them."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def run(
        self, *argv: str, check: bool = True, env: dict[str, str] | None = None, timeout: float | None = None, text: str = ""
    ) -> Result:
        """Run `argv` to its end with `text` on its standard input; `env` is added to the environment; `timeout` is in seconds.

        Raises WarmstartError with the reason found in the output, else `command_failed`, if `check` and the exit status
        is not 0; with `timeout` after the command was killed for taking too long.
        """
        self.commands.append(list(argv))
        started = time.monotonic()
        try:
            done = subprocess.run(
                argv,
                **({"input": text} if text else {"stdin": subprocess.DEVNULL}),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
                check=False,
            )
        except FileNotFoundError as error:
            result = Result(list(argv), 127, "", f"{argv[0]}: command not found ({error.strerror})", 0.0)
        except subprocess.TimeoutExpired:
            raise WarmstartError("timeout", f"{argv[0]} ran for {timeout:g} s: {' '.join(argv)}") from None
        else:
            result = Result(list(argv), done.returncode, done.stdout, done.stderr, time.monotonic() - started)
        if check and result.rc != 0:
            raise self.failure(result)
        return result

    @staticmethod
    def failure(result: Result, log: str = "") -> WarmstartError:
        """The error for a failed command; `log` is text from a log file of it, which is searched first."""
        reason = explain(log) or explain(result.output)
        code = reason.code if reason else "command_failed"
        return WarmstartError(
            code,
            f"{' '.join(result.argv[:3])} ended with {result.rc}: {last_lines(log or result.stderr or result.stdout)}",
            rc=result.rc,
            stdout=result.stdout,
            stderr=result.stderr,
        )


def last_lines(text: str, count: int = 3) -> str:
    """The last `count` lines that say something, on one line."""
    return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-count:])
