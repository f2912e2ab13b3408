"""_manifest.py with the manifest of a real golden checkpoint: whole, of another schema, and wrong in one place at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _manifest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

TEXT = (Path(__file__).parents[2] / "captures" / "manifest_llama.json").read_text()


def refusal(text: str, code: str = "manifest_invalid") -> str:
    with pytest.raises(WarmstartError) as error:
        _manifest.parse(text, "m.json")
    assert error.value.reason.code == code
    return error.value.detail


def test_a_real_manifest_is_read():
    assert _manifest.parse(TEXT, "m.json")["container"]["name"] == "llama"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", '{"schema": "2"}', '{"schema": true}'])
def test_what_is_no_manifest_is_refused(text):
    assert "m.json is not" in refusal(text)


@pytest.mark.parametrize(("schema", "advice"), [(1, "Bake a new version."), (3, "Update the collection.")])
def test_another_schema_is_refused_with_what_to_do(schema, advice):
    assert advice in refusal(json.dumps({**json.loads(TEXT), "schema": schema}), "manifest_schema")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("class", 5, "class must be a text, not a whole number."),
        ("host.cpu.flags", None, "host.cpu.flags must be a text, not null."),
        ("host.gpus", [{"name": "H100"}], "host.gpus[0].uuid is missing."),
        ("container.mounts", [{"source": "/a", "destination": 1, "options": []}], "container.mounts[0].destination must be a text"),
        ("archive.size", True, "archive.size must be a whole number"),
        ("archive.size", 1 << 40, "archive.chunks must be as many as chunk_size and size say (16384)."),
        ("archive.chunk_size", 0, "archive.chunks must be as many"),
        ("archive.chunks", ["zz"], "archive.chunks must be a SHA-256 in hex for each chunk."),
        ("archive.digest", "0" * 64, "archive.digest must be the SHA-256 over archive.chunks."),
        ("archive.file", "../../etc/shadow", "archive.file must be the name of a file beside the manifest."),
        ("created", "yesterday", "created must be a time"),
        ("oracle.tokens", "a b", "oracle.tokens must be a list, not a text."),
        ("engine", ["vllm"], "engine must be a dictionary, not a list."),
    ],
)
def test_one_wrong_value_is_named_by_its_path(path, value, said):
    manifest = json.loads(TEXT)
    *folders, key = path.split(".")
    place = manifest
    for folder in folders:
        place = place[folder]
    place[key] = value
    assert said in refusal(json.dumps(manifest))


def keys(rule, path=()):
    for key, inner in rule.items():
        if not isinstance(inner, _manifest.Maybe):
            yield (*path, key)
            if isinstance(inner, dict):
                yield from keys(inner, (*path, key))


@pytest.mark.parametrize("path", [path for path in keys(_manifest.SHAPE) if path != ("schema",)], ids=".".join)
def test_every_required_key_is_missed(path):
    manifest = json.loads(TEXT)
    place = manifest
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    assert refusal(json.dumps(manifest)) == f"m.json: {'.'.join(path)} is missing."


def test_what_may_be_null_or_unknown():
    manifest = {**json.loads(TEXT), "oracle": None, "model": None, "of_a_later_version": 1}
    assert _manifest.parse(json.dumps(manifest), "m.json") == manifest
