"""_fingerprint.py: the class, and a real manifest against hosts that differ in one fact; GPUs as an H100 host showed them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _fingerprint
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Result

MANIFEST = json.loads((Path(__file__).parents[2] / "captures" / "manifest_llama.json").read_text())
GPU = {
    "name": "NVIDIA H100 80GB HBM3",
    "uuid": "GPU-8b7ea2d9-0000-0000-0000-000000000000",
    "compute_capability": "9.0",
    "memory_total": 85520809984,
}
OTHER_GPU = {**GPU, "uuid": "GPU-8b7ea2d9-0000-0000-0000-000000000001"}


class Tools:
    """podman and CRIU of a host that has the image; `refusal` is what criu cpuinfo check prints."""

    path = "/usr/sbin/criu"

    def __init__(self, image: str = MANIFEST["container"]["image_id"], refusal: str = ""):
        self.runner, self.image, self.refusal = self, image, refusal

    def run(self, *argv, **_options) -> Result:
        if "cpuinfo" in argv:
            return Result(list(argv), int(bool(self.refusal)), "", self.refusal, 0.0)
        return Result(list(argv), 0 if self.image else 125, self.image, "", 0.0)


def compare(here: dict | None = None, there: dict | None = None, tools: Tools | None = None, **gpu) -> dict[str, dict]:
    """The differences by fact: `here` and `there` change what each host is; `gpu` makes it a GPU's checkpoint."""
    tools = tools or Tools()
    manifest = copy.deepcopy(MANIFEST)
    manifest["container"]["mounts"] = []
    manifest["host"].update(there or {})
    if gpu:
        manifest["gpu"].update(method="driver_api", gpus=gpu["gpus"])
        manifest["host"].update(gpus=gpu["gpus"])
    rows = _fingerprint.Comparison(tools, tools, manifest, {**MANIFEST["host"], **(here or {})}).differences()
    assert [row["fact"] for row in rows] == list(_fingerprint.FACTS)
    for row in rows:
        assert bool(row["reason"]) == bool(row["fix"]) == (row["level"] != "ok"), row
    return {row["fact"]: row for row in rows}


def only(rows: dict[str, dict]) -> tuple[str, str]:
    """The one fact that is not ok, and its level."""
    (row,) = [row for row in rows.values() if row["level"] != "ok"]
    return row["fact"], row["level"]


def test_a_host_is_compatible_with_itself():
    assert {row["level"] for row in compare().values()} == {"ok"}


@pytest.mark.parametrize(
    ("change", "fact", "level"),
    [
        ({"architecture": "arm64"}, "architecture", "fatal"),
        ({"kernel": "6.12.1"}, "kernel", "fatal"),
        ({"kernel": "7.0.1"}, "kernel", "warning"),
        ({"criu": "4.1.1"}, "criu", "fatal"),
        ({"criu": "4.2"}, "criu", "warning"),
        ({"criu": "4.3"}, "criu", "warning"),
        ({"criu": ""}, "criu", "fatal"),
        ({"podman": "5.4.2"}, "podman", "warning"),
        ({"runtime_version": "1.26"}, "runtime_version", "warning"),
        ({"cgroups": "v1"}, "cgroups", "fatal"),
        ({"lsm": "selinux"}, "lsm", "fatal"),
    ],
)
def test_one_difference(change, fact, level):
    rows = compare(change)
    assert only(rows) == (fact, level)
    assert _fingerprint.compatible(list(rows.values())) == (level != "fatal")
    value = next(iter(change.values()))
    assert (value or "missing") in rows[fact]["reason"]


def test_another_patch_level_of_the_kernel_is_fine():
    assert compare({"kernel": "6.18.1"})["kernel"]["level"] == "ok"


def test_labels_get_lost_where_there_is_no_security_module():
    assert only(compare({"lsm": "none"}, {"lsm": "apparmor"})) == ("lsm", "warning")


def test_cpus_are_compared_by_criu():
    other = {"cpu": {"vendor": "GenuineIntel", "model": "Xeon", "flags": "", "criu": "AAAA"}}
    assert compare(other)["cpu"]["level"] == "ok"
    row = compare(other, tools=Tools(refusal="Error (criu/cr-dump.c): CPU capability `avx512f' not present"))["cpu"]
    assert (row["level"], row["here"]) == ("fatal", "Xeon")
    assert "avx512f" in row["reason"]


def test_cpus_are_compared_by_their_flags_without_criu():
    cpu = {**MANIFEST["host"]["cpu"], "criu": ""}
    more, fewer = ({**cpu, "flags": flags} for flags in (cpu["flags"] + " amx_tile", cpu["flags"].replace(" avx2 ", " ")))
    assert compare({"cpu": more})["cpu"]["level"] == "ok"
    row = compare({"cpu": fewer})["cpu"]
    assert row["level"] == "fatal"
    assert "missing: avx2." in row["reason"]


def test_an_image_that_is_not_the_same_or_not_here():
    assert only(compare(tools=Tools(image="f" * 64))) == ("image", "fatal")
    assert only(compare(tools=Tools(image=""))) == ("image", "fatal")  # localhost/, which nobody can pull


def test_the_driver_must_be_the_same():
    rows = compare({"gpus": [GPU], "driver": "580.159.04"}, {"driver": "570.86.15"}, gpus=[GPU])
    assert only(rows) == ("driver", "fatal")
    assert "580.159.04 here, 570.86.15 there" in rows["driver"]["reason"]
    assert rows["driver"]["fix"].startswith("Rebake for class h100x1-580.159.04-k6.18-criu4.2.1-")
    older = compare({"gpus": [GPU], "driver": "570.86.15"}, {"driver": "580.159.04"}, gpus=[GPU])["driver"]
    assert older["fix"].startswith("Install driver 580.159.04 here, or rebake for class h100x1-570.86.15-")


def test_gpus_must_be_as_many_of_the_same_chip():
    same = {"driver": "580.159.04"}
    assert not [row for row in compare({"gpus": [GPU], **same}, same, gpus=[GPU]).values() if row["level"] != "ok"]
    assert not [row for row in compare({"gpus": [OTHER_GPU], **same}, same, gpus=[GPU]).values() if row["level"] != "ok"]
    assert only(compare({"gpus": [GPU], **same}, same, gpus=[GPU, OTHER_GPU])) == ("gpu", "fatal")
    assert only(compare({"gpus": [{**GPU, "name": "NVIDIA H200"}], **same}, same, gpus=[GPU])) == ("gpu", "fatal")
    assert only(compare({"gpus": [], **same}, same, gpus=[GPU])) == ("gpu", "fatal")


def test_another_gpu_needs_a_driver_that_maps_them():
    same = {"driver": "570.86.15"}
    rows = compare({"gpus": [OTHER_GPU], **same}, same, gpus=[GPU])
    assert only(rows) == ("gpu", "fatal")
    assert "driver 580" in rows["gpu"]["fix"]


def test_a_checkpoint_without_gpu_memory_goes_anywhere():
    assert {row["level"] for row in compare({"gpus": [GPU], "driver": "580.159.04"}).values()} == {"ok"}


def test_a_missing_mount():
    tools = Tools()
    manifest = {
        **MANIFEST,
        "container": {**MANIFEST["container"], "mounts": [{"source": "/no/models", "destination": "/m", "options": []}]},
    }
    row = _fingerprint.Comparison(tools, tools, manifest, MANIFEST["host"]).compare_mounts()
    assert (row["level"], row["reason"]) == ("fatal", "Missing: /no/models.")


def test_class_names():
    host = MANIFEST["host"]
    assert _fingerprint.class_of(host) == MANIFEST["class"] == "cpu-k6.18-criu4.2.1-9c41f59a"
    gpus = {**host, "driver": "580.159.04", "gpus": [GPU, OTHER_GPU]}
    assert _fingerprint.class_of(gpus).startswith("h100x2-580.159.04-k6.18-criu4.2.1-")
    # what tells hosts of one class apart
    same = {**host, "hostname": "other", "kernel": "6.18.99", "podman": "5.9"}
    assert _fingerprint.class_of(same) == _fingerprint.class_of(host)
    for change in ({"lsm": "selinux"}, {"cgroups": "v1"}, {"kernel": "6.17"}, {"cpu": {**host["cpu"], "criu": "AAAA"}}):
        assert _fingerprint.class_of({**host, **change}) != _fingerprint.class_of(host)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla T4", "t4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA", "gpu"),
    ],
)
def test_short_names_of_chips(name, short):
    assert _fingerprint.chip(name) == short


def test_an_engine_that_does_not_answer_has_no_version():
    assert _fingerprint.engine_version("vllm", "http://127.0.0.1:9") is None
    assert _fingerprint.engine_version("openai", "http://127.0.0.1:9") is None
    assert _fingerprint.engine_version("", "") is None


def test_flags_of_this_cpu():
    told = _fingerprint.cpu_flags(Path("/proc/cpuinfo").read_text())
    assert told["vendor"]
    assert told["flags"]
