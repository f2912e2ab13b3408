#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Documentation only: plugins/action/benchmark_record.py does the work, on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: benchmark_record
short_description: Keep a row of a benchmark as it comes, and say how far the host is
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Adds a line to C(runs/HOST.jsonl) on the controller, which M(gpufleet.warmstart.benchmark_plan) began.
  - For a row it prints host, method, iteration, total, and about how long the rest takes; in colour on a terminal, else as a plain line.
  - It connects to no host.
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
attributes:
  check_mode:
    support: full
    details: Writes and prints nothing.
  diff_mode:
    support: none
options:
  directory:
    description: Folder on the controller for the report.
    type: path
    required: true
  row:
    description: One iteration, as M(gpufleet.warmstart.benchmark_report) takes it. Give this or O(checkpoint).
    type: dict
  checkpoint:
    description: What a checkpoint holds.
    type: dict
  planned:
    description: Number of rows in the plan.
    type: int
    default: 0
seealso:
  - module: gpufleet.warmstart.benchmark_plan
"""

EXAMPLES = r"""
- name: Keep the row
  gpufleet.warmstart.benchmark_record:
    directory: build/report
    planned: 15
    row:
      host: "{{ inventory_hostname }}"
      method: cold
      iteration: 1
      ok: true
      seconds: {total: 1.6}
"""

RETURN = r"""# """
