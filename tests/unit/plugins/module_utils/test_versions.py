"""_versions.py: links, retention, and that nothing with the server's memory is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _versions
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError


@pytest.fixture
def folder(tmp_path) -> Path:
    for at, name in enumerate(("1", "2", "3", "4"), start=1000):
        make(tmp_path / name, at)
    return tmp_path


def make(version: Path, at: int) -> None:
    version.mkdir()
    for name in ("checkpoint.tar", "manifest.json", "manifest.json.sig"):
        (version / name).write_text("x")
        os.utime(version / name, (at, at))
    (version / ".checkpoint.tar.pages").mkdir()
    (version / ".checkpoint.tar.pages" / "pages-1.img").write_text("memory")


def put(folder: Path, version: str | None, keep: int = 2) -> dict:
    planned = _versions.plan(folder, version, keep)
    _versions.apply(folder, planned)
    assert _versions.is_done(folder, _versions.plan(folder, version, keep))
    return planned


def test_current_and_previous_follow_each_other_and_the_rest_goes(folder):
    assert put(folder, "2", keep=9)["previous"] == ""
    done = put(folder, "3")
    assert (done["current"], done["previous"], done["removed"]) == ("3", "2", ["1", "4"])
    assert sorted(os.listdir(folder)) == ["2", "3", "current", "previous"]
    assert (folder / "current" / "manifest.json").is_file()
    assert os.readlink(folder / "current") == "3"  # relative: it holds wherever the store is mounted


def test_back_to_the_previous_one(folder):
    put(folder, "3", keep=9)
    put(folder, "4", keep=9)
    assert (put(folder, "3")["current"], _versions.state_of(folder)["previous"]) == ("3", "4")


def test_one_only(folder):
    put(folder, "3", keep=9)
    done = put(folder, "4", keep=1)
    assert (done["previous"], done["versions"]) == ("", ["4"])
    assert sorted(os.listdir(folder)) == ["4", "current"]


def test_without_a_version_the_newest_are_kept_and_links_stay(folder):
    put(folder, "1", keep=9)
    assert put(folder, None, keep=3)["versions"] == ["4", "3", "1"]
    assert _versions.state_of(folder)["current"] == "1"


def test_what_was_interrupted_is_removed(folder):
    (folder / "5").mkdir()
    (folder / "5" / ".checkpoint.tar.partial").write_text("memory")
    (folder / "4" / ".ansible_tmpabccheckpoint.tar").write_text("memory")
    (folder / ".1.removed").mkdir()
    (folder / ".1.removed" / "checkpoint.tar").write_text("memory")
    done = put(folder, "4", keep=9)
    assert done["removed"] == [".1.removed", "4/.ansible_tmpabccheckpoint.tar", "5"]
    assert sorted(os.listdir(folder / "4")) == [".checkpoint.tar.pages", "checkpoint.tar", "manifest.json", "manifest.json.sig"]


def test_planning_changes_nothing(folder):
    before = sorted(os.listdir(folder))
    assert _versions.plan(folder, "4", 1)["removed"] == ["1", "2", "3"]
    assert sorted(os.listdir(folder)) == before


def test_a_link_to_what_is_gone_is_none(folder):
    put(folder, "1", keep=9)
    (folder / "current").unlink()
    (folder / "current").symlink_to("gone")
    assert _versions.state_of(folder)["current"] == ""


@pytest.mark.parametrize("version", ["current", "previous", "../1", "", ".hidden", "a/b", "5"])
def test_what_is_no_version_is_refused(folder, version):
    with pytest.raises(WarmstartError) as error:
        _versions.plan(folder, version, 2)
    assert error.value.reason.code == ("archive_missing" if version == "5" else "bad_input")


def test_nothing_to_keep_is_refused(folder):
    with pytest.raises(WarmstartError, match="at least the current version"):
        _versions.plan(folder, "1", 0)


def test_no_folder_has_no_versions(tmp_path):
    assert _versions.state_of(tmp_path / "none") == {"current": "", "previous": "", "versions": []}
