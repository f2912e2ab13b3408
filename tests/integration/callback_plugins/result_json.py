# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints each result of `ansible -m` as one line of JSON, whole: conftest.py reads it back. For tests only."""

from __future__ import annotations

import json

from ansible.parsing.ajson import AnsibleJSONEncoder
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: result_json
type: stdout
short_description: One line of JSON for each result
description: Prints results whole, for the integration tests.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "result_json"

    def _print(self, result, **more):
        values = getattr(result, "result", None) or result._result  # .result from ansible-core 2.19 on
        self._display.display(json.dumps({**values, **more}, cls=AnsibleJSONEncoder))

    def v2_runner_on_ok(self, result):
        self._print(result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._print(result, failed=True)

    def v2_runner_on_unreachable(self, result):
        self._print(result, unreachable=True)

    def v2_runner_on_skipped(self, result):
        self._print(result, skipped=True)
