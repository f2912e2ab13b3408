"""_archive.py and _golden.py: real archives of a container with a secret in its environment, whole and damaged."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _archive, _golden, _manifest
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

CAPTURES = Path(__file__).parents[2] / "captures"


@pytest.fixture(params=["none", "gzip", "zstd"])
def archive(request, tmp_path) -> Path:
    path = tmp_path / "checkpoint.tar"
    if request.param == "none":
        path.write_bytes(gzip.decompress((CAPTURES / "podman_checkpoint_gzip.archive").read_bytes()))
    elif request.param == "zstd" and not shutil.which("zstd"):
        pytest.fail("install zstd: make setup does")
    else:
        shutil.copy(CAPTURES / f"podman_checkpoint_{request.param}.archive", path)
    return path


def test_an_archive_tells_what_it_holds(archive):
    told = _archive.describe_archive(archive)
    container = told["checkpoint"]
    assert container["name"] == "tiny"
    assert container["image"] == "localhost/eng:1"
    assert container["command"] == ["sleep", "999"]
    assert container["runtime"] == "crun"
    assert container["network"] == "bridge"
    assert container["ports"] == [{"host_ip": "127.0.0.1", "host_port": 8124, "container_port": 8123, "protocol": "tcp"}]
    assert [mount["destination"] for mount in container["mounts"]] == ["/hand"]
    assert [finding["code"] for finding in container["findings"]] == ["mount"]
    assert told["parts"]["pages"] > 0
    assert told["parts"]["root_diff"] == 1536
    assert told["size"] == archive.stat().st_size


def test_environment_values_are_never_told(archive):
    told = _archive.describe_archive(archive)
    assert "TOKEN" in told["checkpoint"]["environment_names"]
    assert "verysecret" not in json.dumps(told)


def test_a_truncated_archive_is_corrupt(archive):
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WarmstartError) as error:
        _archive.read_archive(archive)
    assert error.value.reason.code == "archive_corrupt"


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x28\xb5\x2f\xfdnot zstd", b"\x1f\x8bnot gzip", b"\0" * 10240])
def test_what_is_no_archive_is_corrupt(tmp_path, content):
    path = tmp_path / "checkpoint.tar"
    path.write_bytes(content)
    with pytest.raises(WarmstartError) as error:
        _archive.read_archive(path)
    assert error.value.reason.code == "archive_corrupt"


def test_a_missing_archive_is_missing(tmp_path):
    with pytest.raises(WarmstartError) as error:
        _archive.read_archive(tmp_path / "none.tar")
    assert error.value.reason.code == "archive_missing"


@pytest.fixture
def run_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(_golden, "RUN", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(params=[64 << 20, 1000])
def recorded(request, archive, run_folder, monkeypatch) -> dict:
    monkeypatch.setattr(_golden, "CHUNK", request.param)
    return _golden.describe(archive, archive.name)


def test_chunks_are_digests_of_the_file_in_order(archive, recorded):
    content, size = archive.read_bytes(), recorded["chunk_size"]
    assert recorded["chunks"] == [hashlib.sha256(content[at : at + size]).hexdigest() for at in range(0, len(content), size)]
    assert recorded["digest"] == _manifest.digest_of(recorded["chunks"])


def test_one_flipped_byte_fails_the_digest(archive, recorded):
    _golden.verify(archive, recorded)
    damaged = bytearray(archive.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    archive.write_bytes(damaged)
    with pytest.raises(WarmstartError) as error:
        _golden.verify(archive, recorded)
    assert error.value.reason.code == "archive_corrupt"
    at = len(damaged) // 2 // recorded["chunk_size"] * recorded["chunk_size"]
    assert f"1 of {len(recorded['chunks'])} chunks differ from the manifest, the first at byte {at}." in str(error.value)


def test_a_verified_archive_is_not_read_again_until_it_changes(archive, recorded, monkeypatch):
    _golden.verify(archive, recorded)
    monkeypatch.setattr(_golden, "digests", lambda *_arguments: pytest.fail("read again"))
    _golden.verify(archive, recorded)
    archive.write_bytes(archive.read_bytes() + b"x")
    with pytest.raises(WarmstartError, match="bytes, its manifest says"):
        _golden.verify(archive, recorded)


def test_a_manifest_belongs_to_one_archive(tmp_path):
    archive = tmp_path / "checkpoint.tar"
    assert _golden.read_manifest(archive) is None
    _golden.write_manifest(archive, json.loads((CAPTURES / "manifest_llama.json").read_text()))
    assert _golden.read_manifest(archive)["archive"]["file"] == "checkpoint.tar"
    assert _golden.read_manifest(tmp_path / "other.tar") is None
    assert _golden.manifest_path(archive).stat().st_mode & 0o777 == 0o600


def test_what_is_read_by_podman_may_be_in_an_archive_once_only(tmp_path):
    """podman takes the last of two, and whoever looks before it may take the first."""
    path = tmp_path / "checkpoint.tar"
    path.write_bytes(gzip.decompress((CAPTURES / "podman_checkpoint_gzip.archive").read_bytes()))
    with tarfile.open(path, "a") as archive:
        archive.addfile(tarfile.TarInfo("spec.dump"))
    with pytest.raises(WarmstartError, match=r"spec\.dump more than once"):
        _archive.read_archive(path)
