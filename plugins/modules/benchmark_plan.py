#!/usr/bin/python
# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Documentation only: plugins/action/benchmark_plan.py does the work, on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: benchmark_plan
short_description: Check what a benchmark is to do, and lay it out
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Checks the methods and conditions of role P(gpufleet.warmstart.benchmark#role), names the containers and checkpoints that they need, and
    lists one row per iteration, the first of all methods before the second.
  - Begins C(runs/HOST.jsonl) in O(directory), to which M(gpufleet.warmstart.benchmark_record) adds. With O(resume), the rows that are there
    already stay as they are.
  - It connects to no host.
extends_documentation_fragment:
  - gpufleet.warmstart.attributes
attributes:
  check_mode:
    support: full
    details: Begins no file.
  diff_mode:
    support: none
options:
  methods:
    description: Methods to compare, as for role P(gpufleet.warmstart.benchmark#role), names or dictionaries.
    type: list
    elements: raw
    required: true
  iterations:
    description: Iterations of each method.
    type: int
    required: true
  warmup:
    description: Iterations of each method before these, which are not counted.
    type: int
    default: 0
  server:
    description: The server to measure.
    type: dict
    required: true
  store:
    description: Folder on the host for the archives of methods that name none.
    type: str
    required: true
  directory:
    description: Folder on the controller for the report.
    type: path
    required: true
  fail_if:
    description: Conditions for M(gpufleet.warmstart.benchmark_report), only checked here.
    type: list
    elements: str
    default: []
  resume:
    description: Go on with an interrupted benchmark of the same methods and server.
    type: bool
    default: false
seealso:
  - module: gpufleet.warmstart.benchmark_record
"""

EXAMPLES = r"""
- name: Plan the iterations
  gpufleet.warmstart.benchmark_plan:
    methods:
      - cold
      - {name: archive-zstd, method: restore_archive, checkpoint: {compress: zstd}}
    iterations: 5
    server: {name: llama, image: localhost/llama-server:1}
    store: /var/lib/gpufleet-warmstart
    directory: build/report
  register: plan
"""

RETURN = r"""
methods:
  description: Each method by its name, complete, with its container, checkpoint and archive.
  returned: success
  type: dict
checkpoints:
  description: The checkpoints that rows which are still to be run need. Methods with equal ones share them.
  returned: success
  type: list
  elements: dict
containers:
  description: Names of all containers of the benchmark.
  returned: success
  type: list
  elements: str
  sample: [llama-benchmark, llama-benchmark-in-place]
folders:
  description: Folders of its archives.
  returned: success
  type: list
  elements: str
  sample: [/var/lib/gpufleet-warmstart/llama-benchmark]
rows:
  description: One row per iteration; those that are still to be run have reason C(not_run).
  returned: success
  type: list
  elements: dict
taken:
  description: What was noted of checkpoints before.
  returned: success
  type: list
  elements: dict
"""
