#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Documentation only: plugins/action/benchmark_report.py does the work, on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: benchmark_report
short_description: Write the report of a benchmark and print its summary
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Writes C(report.json), C(report.csv) and C(report.md) on the controller, each beside its final name first, and prints the summary.
  - p50 and p95 are interpolated linearly between the two nearest values, over the iterations that succeeded.
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
    description: Folder on the controller for the report. It is made if it is not there, and an older report in it is replaced.
    type: path
    required: true
  rows:
    description:
      - One row per iteration, as role P(gpufleet.warmstart.benchmark#role) collects them, with C(host), C(method), C(iteration), C(ok),
        C(seconds) and, where C(ok=false), C(reason) and C(msg).
      - C(seconds) has C(podman), C(criu), C(healthy), C(first_token) and C(total); a part that is missing becomes null.
    type: list
    elements: dict
    required: true
  hosts:
    description: Versions and other facts of each host, by its name.
    type: dict
    default: {}
seealso:
  - ref: gpufleet.warmstart.benchmark role <ansible_collections.gpufleet.warmstart.benchmark_role>
    description: The role that collects the rows.
"""

EXAMPLES = r"""
- name: Write the report of all hosts
  gpufleet.warmstart.benchmark_report:
    directory: build/report
    rows: "{{ ansible_play_hosts_all | map('extract', hostvars, '__benchmark_rows') | flatten }}"
    hosts:
      gpu1: {podman: 5.8.6, criu: 4.2.1, kernel: 6.18.44}
  run_once: true
"""

RETURN = r"""
files:
  description: The files of the report.
  returned: success
  type: list
  elements: str
  sample: [/srv/reports/report.json, /srv/reports/report.csv, /srv/reports/report.md]
summary:
  description: What C(report.json) has under C(summary), one entry for each method.
  returned: success
  type: dict
  sample:
    restore_in_place:
      n: 5
      failed: 0
      total: {p50: 0.52, p95: 0.61, min: 0.49, max: 0.63}
      speedup_over_cold: 9.4
"""
