"""_memory.py: huge pages are put back, also after a killed run; the page cache is measured and warmed for real."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _memory


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Path:
    """The two files as the kernel shows them; the kernel moves the brackets, a plain file keeps what was written."""
    monkeypatch.setattr(_memory, "HUGE_PAGES", tmp_path)
    monkeypatch.setattr(_memory, "RUN", tmp_path / "run")
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    (tmp_path / "shmem_enabled").write_text("always within_size advise [never] deny force\n")
    return tmp_path


def values(settings: Path) -> list[str]:
    return [(settings / name).read_text() for name in _memory.SETTINGS]


def bracket(settings: Path) -> None:
    for name in _memory.SETTINGS:
        path = settings / name
        path.write_text(f"[{path.read_text()}]")


def test_huge_pages_are_put_back(settings):
    with _memory.huge_pages():
        assert values(settings) == ["always", "always"]
        bracket(settings)
    assert values(settings) == ["madvise", "never"]
    assert not (settings / "run" / "huge-pages.json").exists()


def test_huge_pages_are_put_back_after_an_error(settings):
    def fail() -> None:
        bracket(settings)
        raise KeyError

    with pytest.raises(KeyError), _memory.huge_pages():
        fail()
    assert values(settings) == ["madvise", "never"]


def test_the_last_of_two_runs_puts_them_back(settings):
    with _memory.huge_pages():
        bracket(settings)
        with _memory.huge_pages():
            pass
        assert values(settings) == ["[always]", "[always]"]
    assert values(settings) == ["madvise", "never"]


def test_the_run_after_a_killed_one_puts_them_back(settings):
    child = os.fork()
    if child == 0:
        with _memory.huge_pages():
            bracket(settings)
            os._exit(9)  # as after kill -9: no finally runs
    os.waitpid(child, 0)
    assert values(settings) == ["[always]", "[always]"]
    with _memory.huge_pages():
        pass
    assert values(settings) == ["madvise", "never"]


def test_a_host_without_huge_pages_stays_as_it_is(settings):
    for name in _memory.SETTINGS:
        (settings / name).unlink()
    with _memory.huge_pages():
        pass
    assert not (settings / "enabled").exists()


def test_a_cold_file_is_measured_and_warmed(tmp_path):
    file = tmp_path / "pages-1.img"
    file.write_bytes(os.urandom(40 << 20))
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    if _memory.resident(file) > 0.5:
        pytest.skip("this filesystem lives in memory: there is no cold file on it")
    _memory.warm_up([file]).join()
    assert _memory.resident(file) == 1.0
    assert _memory.warm_up([file]) is None


def test_an_empty_file_is_warm(tmp_path):
    (tmp_path / "empty").touch()
    assert _memory.resident(tmp_path / "empty") == 1.0
