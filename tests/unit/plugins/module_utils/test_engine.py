"""_engine.py and _freeze.py: what a profile adds, that the user's word counts, and the record of how a server was frozen."""

from __future__ import annotations

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _engine, _freeze
from ansible_collections.gpufleet.warmstart.plugins.module_utils._podman import SERVER_OPTIONS

VLLM = {"engine": "vllm", "image": "vllm", "command": ["vllm", "serve", "/models/qwen"]}


def test_every_engine_can_be_declared():
    assert list(_engine.ENGINES) == SERVER_OPTIONS["engine"]["choices"]


def test_vllm_gets_what_a_checkpoint_needs_and_is_told_why():
    server, added = _engine.apply(VLLM)
    assert server["env"]["VLLM_HOST_IP"] == "127.0.0.1"
    assert server["env"]["ASYNCIO_DEFAULT_BACKEND"] == "select"
    assert server["command"] == [*VLLM["command"], "--enable-sleep-mode", "--load-format", "safetensors"]
    assert server["args"] == ["--security-opt", f"seccomp={_engine.SECCOMP_PROFILE}"]
    assert "--enforce-eager" not in server["command"]  # CUDA graphs survive a checkpoint
    assert all(item["why"] for item in added)
    assert "VLLM_NO_USAGE_STATS=1" in [item["item"] for item in added]
    assert VLLM["command"] == ["vllm", "serve", "/models/qwen"]  # the declaration itself stays as it is


def test_the_users_values_win():
    server, _added = _engine.apply(
        {
            **VLLM,
            "command": [*VLLM["command"], "--load-format=dummy"],
            "env": {"HF_HUB_OFFLINE": "0"},
            "args": ["--security-opt", "seccomp=/my/profile.json"],
        }
    )
    assert server["env"]["HF_HUB_OFFLINE"] == "0"
    assert "safetensors" not in server["command"]
    assert server["args"] == ["--security-opt", "seccomp=/my/profile.json"]


def test_the_arguments_of_an_images_own_command_are_left_alone():
    assert _engine.apply({"engine": "vllm", "image": "vllm"})[0]["command"] == []


def test_driver_libraries_that_are_mounted_are_found():
    server, _added = _engine.apply({**VLLM, "volumes": ["/usr/lib/nvidia:/opt/nvidia-libs:ro"]})
    assert server["env"]["LD_LIBRARY_PATH"] == "/opt/nvidia-libs"
    assert "LD_LIBRARY_PATH" not in _engine.apply(VLLM)[0]["env"]


@pytest.mark.parametrize("engine", ["openai", "llama_cpp"])
def test_other_engines_get_nothing(engine):
    server, added = _engine.apply({"engine": engine, "image": "i", "command": ["serve"]})
    assert added == []
    assert server["command"] == ["serve"]
    assert _engine.sleep(engine, "http://127.0.0.1:9") == 0.0  # nobody is asked


def test_the_record_of_a_frozen_server_survives_json():
    frozen = _freeze.Frozen("driver_api", {"GPU-1": 1}, [{"uuid": "GPU-1"}], "vllm", "http://127.0.0.1:8000", 1)
    assert _freeze.Frozen.from_record(frozen.record()) == frozen
    assert _freeze.Frozen.from_record(None).method == "none"
