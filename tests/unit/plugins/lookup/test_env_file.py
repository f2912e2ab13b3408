# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""env_file: the seed scripts' .env as it is, and lines that are none."""

from __future__ import annotations

import pytest
from ansible_collections.gpufleet.warmstart.plugins.lookup.env_file import parse

SEED = """\
MODEL_ID=Qwen/Qwen2-1.5B-Instruct     # Model to checkpoint
CONT_NAME=vllm-llm-demo               # Container name

# the port
export API_PORT='8000'
CHECKPOINT_DIR="/mnt/checkpoint ram"
EMPTY=
"""


def test_a_file_as_the_scripts_have_it():
    assert parse(SEED, ".env") == {
        "MODEL_ID": "Qwen/Qwen2-1.5B-Instruct",
        "CONT_NAME": "vllm-llm-demo",
        "API_PORT": "8000",
        "CHECKPOINT_DIR": "/mnt/checkpoint ram",
        "EMPTY": "",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A=1\nsource other.env", r"\.env, line 2: it is not NAME=VALUE"),
        ("A=b c", "line 1: a value with spaces needs quotes"),
        ("A='b", "line 1: No closing quotation"),
    ],
)
def test_lines_that_are_none(text, says):
    with pytest.raises(ValueError, match=says):
        parse(text, ".env")


def test_nothing_is_expanded():
    assert parse("A=$(id)${HOME}", ".env") == {"A": "$(id)${HOME}"}
