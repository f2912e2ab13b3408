#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Documentation only: plugins/action/benchmark_compare.py does the work, on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: benchmark_compare
short_description: Compare two reports of a benchmark
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Says for each method that both reports have whether it got better, got worse, or is within noise, and prints a table.
  - The verdict rests on the ratio of the two medians and its 95 % bootstrap interval (1000 resamples, the same ones every time). Where the
    interval includes 1, the difference is within noise.
  - It connects to no host.
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
options:
  before:
    description: The older C(report.json), on the controller.
    type: path
    required: true
  after:
    description: The newer one.
    type: path
    required: true
  fail_if_worse:
    description: Fail if a method got worse.
    type: bool
    default: false
seealso:
  - module: gpufleet.warmstart.benchmark_report
"""

EXAMPLES = r"""
- name: Fail the pipeline where a restore became slower than in the last release
  gpufleet.warmstart.benchmark_compare:
    before: reports/last-release/report.json
    after: reports/today/report.json
    fail_if_worse: true
  run_once: true
"""

RETURN = r"""
methods:
  description:
    - For each method the verdict (better, worse, within_noise, or unknown where fewer than two runs succeeded), the medians in seconds,
      their ratio (below 1 is faster), its interval, and how many runs failed.
  returned: success
  type: dict
  sample:
    restore_archive: {verdict: better, before: 1.26, after: 0.98, ratio: 0.78, interval: [0.71, 0.86], failed: {before: 0, after: 0}}
"""
