# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the unit tests: `serve` starts the server of probe_server.py and makes a Probe for it."""

from __future__ import annotations

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._probe import Probe
from ansible_collections.gpufleet.warmstart.tests.unit.plugins.module_utils.probe_server import Server


@pytest.fixture
def serve():
    servers = []

    def start(paths=(), **options):
        servers.append(Server(**dict(paths)))
        return servers[-1], Probe({"url": servers[-1].url, "timeout": 5.0, **options})

    yield start
    for server in servers:
        server.listener.close()
