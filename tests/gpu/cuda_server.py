# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A CUDA server for the tests: holds 4 GB of random numbers on the GPU and writes a count and their checksum, for ever.

`cuda_server.py FOLDER [GB]` writes FOLDER/count; a file FOLDER/spin with a number of seconds keeps the GPU busy for so long.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

folder = Path(sys.argv[1])
torch.manual_seed(0)
size = int(sys.argv[2]) if len(sys.argv) > 2 else 4
numbers = torch.randint(-(2**62), 2**62, (size * 10**9 // 8,), device="cuda")
count = 0
while True:
    count += 1
    (folder / "count.new").write_text(f"{count} {int(numbers.sum())}")
    (folder / "count.new").rename(folder / "count")
    spin = folder / "spin"
    if spin.exists():
        seconds = float(spin.read_text())
        spin.rename(folder / "spinning")
        # kernels of 10 ms (at 2 GHz), all submitted at once, as an engine does with a long request
        for _ in range(int(seconds * 100)):
            torch.cuda._sleep(20_000_000)
        torch.cuda.synchronize()
        (folder / "spinning").rename(folder / "spun")
    time.sleep(0.01)
