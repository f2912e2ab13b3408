# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: env_file
short_description: Variables of a .env file
version_added: "0.1.0"
author: The gpufleet developers (@gpufleet)
description:
  - Reads files of lines C(NAME=VALUE) on the controller, as shells and container tools take them, and returns a dictionary for each.
  - Empty lines, comments and C(export) are allowed. Quotes around a value are taken off. Nothing is expanded or run.
options:
  _terms:
    description: Paths of the files.
    required: true
"""

EXAMPLES = r"""
- name: Say which model the scripts used
  ansible.builtin.debug:
    msg: "{{ lookup('gpufleet.warmstart.env_file', '.env').MODEL_ID }}"
"""

RETURN = r"""
_raw:
  description: One dictionary for each file.
  type: list
  elements: dict
"""

import re
import shlex

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

LINE = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Za-z_]\w*)=(?P<value>.*)")


def parse(text: str, path: str) -> dict[str, str]:
    """The variables of a file. Raises ValueError that names the line."""
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = LINE.fullmatch(line)
        try:
            if not match:
                raise ValueError("it is not NAME=VALUE")
            words = shlex.split(match["value"], comments=True)
            if len(words) > 1:
                raise ValueError("a value with spaces needs quotes")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}.") from None
        found[match["name"]] = words[0] if words else ""
    return found


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        found = []
        for term in terms:
            path = self.find_file_in_search_path(variables, "files", term)
            if not path:
                raise AnsibleLookupError(f"There is no file {term}.")
            try:
                with open(path, encoding="utf-8") as file:
                    found.append(parse(file.read(), path))
            except (OSError, ValueError) as error:
                raise AnsibleLookupError(str(error)) from error
        return found
