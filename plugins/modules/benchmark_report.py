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
  - Writes C(report.json), C(report.csv), C(report.md), C(report.prom) (for the textfile collector of Prometheus' node_exporter) and
    C(report.html) with its charts in C(charts/) on the controller, each beside its final name first, and prints the summary.
  - C(report.html) is one file that needs no network. It and the charts need the Python library vl-convert-python on the controller; without
    it they are left out with a warning.
  - Iterations below 1 are warm-up iterations, and are left out.
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
        C(seconds) and, where C(ok=false), C(reason) and C(msg). C(kind), C(path_taken), C(load), C(token_latency) and C(bytes) are taken
        over where a row has them.
      - C(seconds) has what the modules return under C(timings). C(podman), C(criu), C(healthy), C(first_token) and C(total) become null
        where they are missing.
    type: list
    elements: dict
    required: true
  hosts:
    description: Versions and other facts of each host, by its name. With C(class) there is a summary for each class as well.
    type: dict
    default: {}
  checkpoints:
    description: What the checkpoints that were restored hold; C(host), C(name), C(size) and C(parts) (bytes) of each.
    type: list
    elements: dict
    default: []
  fail_if:
    description:
      - Conditions under which the task fails once the report is written, as C(METHOD.FIELD OPERATOR NUMBER), over all hosts.
      - The field is V(p50), V(p95), V(min) or V(max) (seconds), V(n), V(failed), or V(speedup) (over a cold start). The operator is V(<),
        V(<=), V(>), V(>=) or V(==). The method V(*) stands for each of them.
      - It fails as well where no run succeeded, so that there is no such number.
    type: list
    elements: str
    default: []
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
    fail_if: [restore_archive.p95 > 5, "*.failed > 0"]
  run_once: true
"""

RETURN = r"""
files:
  description: The files of the report.
  returned: success
  type: list
  elements: str
  sample: [/srv/reports/report.json, /srv/reports/report.csv, /srv/reports/report.md, /srv/reports/report.prom]
summary:
  description: What C(report.json) has under C(summary), one entry for each method.
  returned: success
  type: dict
  sample:
    restore_in_place:
      kind: restore_in_place
      n: 5
      failed: 0
      total: {p50: 0.52, p95: 0.61, min: 0.49, max: 0.63}
      speedup_over_cold: 9.4
      speedup_interval: [9.1, 9.8]
      parts: {podman: 0.48, criu: 0.31, healthy: 0.01, first_token: 0.03}
      token_latency: {before: 0.011, after: 0.011}
"""
