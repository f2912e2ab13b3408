# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unpacking a real archive of podman's for a quick import."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _unpack

CAPTURE = Path(__file__).parents[2] / "captures" / "podman_checkpoint_gzip.archive"


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(_unpack, "WORTH_IT", 1)
    monkeypatch.setattr(_unpack, "CHUNK", 5000)  # several pieces
    path = tmp_path / "checkpoint.tar"
    path.write_bytes(gzip.decompress(CAPTURE.read_bytes()))
    return path


def members(path: Path) -> dict[str, tuple]:
    with tarfile.open(path) as tar:
        return {member.name: (member, tar.extractfile(member).read() if member.isreg() else b"") for member in tar}


def test_pages_are_beside_it_and_links_in_their_stead(archive, tmp_path):
    with _unpack.unpacked(archive, "id-1", tmp_path) as (small, options):
        script = Path(options["action-script"][0])
        assert script.stat().st_mode & 0o777 == 0o700
    assert not script.exists()
    before, after = members(archive), members(small)
    assert list(after) == list(before)
    for name, (member, content) in before.items():
        other, kept = after[name]
        if name.startswith("checkpoint/pages-"):
            assert other.issym()
            assert Path(other.linkname).read_bytes() == content
            assert Path(other.linkname).stat().st_mode & 0o777 == 0o600
        else:
            assert (other.mode, other.uid, kept) == (member.mode, member.uid, content)


def test_second_time_it_is_there_already(archive, tmp_path):
    with _unpack.unpacked(archive, "id-1", tmp_path) as (small, _options):
        written = small.stat().st_mtime_ns
    with _unpack.unpacked(archive, "id-1", tmp_path) as (small, _options):
        assert small.stat().st_mtime_ns == written
    with _unpack.unpacked(archive, "id-2", tmp_path) as (small, _options):
        assert small.stat().st_mtime_ns > written
    assert not _unpack.is_unpacked(_unpack.folder_of(archive), "id-1")


def test_compressed_and_small_archives_are_left_to_podman(archive, tmp_path, monkeypatch):
    compressed = tmp_path / "checkpoint.tar.gz"
    compressed.write_bytes(CAPTURE.read_bytes())
    with _unpack.unpacked(compressed, "id", tmp_path) as (chosen, options):
        assert (chosen, options) == (compressed, {})
    monkeypatch.setattr(_unpack, "WORTH_IT", 1 << 40)
    with _unpack.unpacked(archive, "id", tmp_path) as (chosen, options):
        assert (chosen, options) == (archive, {})
    assert not _unpack.folder_of(archive).exists()


def test_failure_leaves_no_folder(archive, tmp_path):
    whole = archive.read_bytes()
    with tarfile.open(archive) as tar:
        pages = next(member for member in tar if "/pages-" in member.name)
    archive.write_bytes(whole[: pages.offset_data + pages.size // 2])
    with pytest.raises((OSError, tarfile.TarError)), _unpack.unpacked(archive, "id", tmp_path):
        pass
    assert not _unpack.folder_of(archive).exists()
