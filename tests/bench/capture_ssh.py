#!/usr/bin/env python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ssh for Ansible that keeps what modules answered: the captures that connection/simulated.py plays back, one file for each module.

    ANSIBLE_SSH_EXECUTABLE=$PWD/tests/bench/capture_ssh.py ansible-playbook -i INVENTORY gpufleet.warmstart.rollout

Runs the real ssh with what it is given, and writes what a module answered to captures/MODULE.json (MODULE.check.json in check mode) if
it did not fail. Needs pipelining, since the module's name is read from standard input. A collection's modules have their full names,
those of ansible.builtin the last word of theirs. `--limit` the playbook to one host that has everything to do; the last call of a module
counts. captures/manifest.json is that of the golden checkpoint.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ.get("CAPTURES") or Path(__file__).with_name("captures"))
sys.path.insert(0, str(Path(__file__).parent / "connection"))
from simulated import asked_for


def main() -> int:
    sent = b"" if os.isatty(0) else sys.stdin.buffer.read()
    done = subprocess.run(["ssh", *sys.argv[1:]], input=sent, stdout=subprocess.PIPE, check=False)
    sys.stdout.buffer.write(done.stdout)
    key = asked_for(sent)
    if key and done.returncode == 0:
        answer = json.loads(done.stdout.decode().splitlines()[-1])
        if not answer.get("failed"):
            FOLDER.joinpath(f"{key}.json").write_text(json.dumps(answer, indent=1, sort_keys=True) + "\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
