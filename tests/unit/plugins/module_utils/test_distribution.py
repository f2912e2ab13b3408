"""_distribute.py, _shards.py and _transport.py: golden checkpoints through a folder with real zstd, and what oras printed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import types
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _distribute, _golden, _shards, _transport
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

CAPTURES = Path(__file__).parents[2] / "captures"
CHUNK = 4096
CODES = [
    *("registry_missing", "registry_missing", "registry_auth", "registry_auth", "registry_auth", "registry_tls", "digest_mismatch"),
    *("registry_unreachable", "registry_unreachable", "registry_unreachable", "registry_unreachable", "disk_full"),
]


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setattr(_golden, "RUN", tmp_path / "run")
    monkeypatch.setattr(_transport, "RUN", tmp_path / "run")
    monkeypatch.setattr(_transport, "WAITS", ())
    (tmp_path / "share").mkdir()


def bake(folder: Path, *seeds: int) -> Path:
    """A golden checkpoint of one chunk for each seed; the last one is short."""
    folder.mkdir(parents=True)
    chunks = [random.Random(seed).randbytes(CHUNK) for seed in seeds]
    chunks[-1] = chunks[-1][:100]
    (folder / "checkpoint.tar").write_bytes(b"".join(chunks))
    archive = {"file": "checkpoint.tar", "size": CHUNK * (len(seeds) - 1) + 100, "chunk_size": CHUNK}
    archive["chunks"] = [hashlib.sha256(chunk).hexdigest() for chunk in chunks]
    (folder / "manifest.json").write_text(json.dumps({"archive": archive}))
    return folder


def layout(folder: Path) -> _shards.Layout:
    return _shards.Layout(json.loads((folder / "manifest.json").read_text()), "it")


def share(tmp_path, tag: str = "1") -> _transport.Folder:
    return _transport.Folder(f"file://{tmp_path}/share/llama", tag)


def wanted(folder: Path, source: Path, signature: bytes | None = None) -> _distribute.Wanted:
    return _distribute.Wanted(folder, (source / "manifest.json").read_bytes(), signature)


def same(one: Path, other: Path) -> bool:
    return (one / "checkpoint.tar").read_bytes() == (other / "checkpoint.tar").read_bytes()


def test_there_and_back(tmp_path):
    baked = bake(tmp_path / "baked/1", 1, 2, 2, 3)
    sent = _distribute.publish(baked, layout(baked), share(tmp_path), 2)
    assert sent["shards"] == {"all": 3, "sent": 3}, "equal chunks travel once"
    assert _distribute.published(share(tmp_path), layout(baked))
    target = tmp_path / "store/golden/llama/1"
    request = wanted(target, baked, b"signed")
    assert _distribute.in_place(request) == ""
    got = _distribute.fetch(request, share(tmp_path), 2)
    assert got["chunks"] == {"all": 4, "resumed": 0, "reused": 0, "fetched": 3}
    assert same(target, baked)
    assert sorted(os.listdir(target)) == ["checkpoint.tar", "manifest.json", "manifest.json.sig"]
    assert {path.stat().st_mode & 0o777 for path in target.iterdir()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (target, target.parent, target.parents[2])} == {0o700}
    assert os.listdir(target.parent) == ["1"]
    assert os.listdir(baked.parent) == ["1"]
    assert _distribute.in_place(request) == "all"
    assert _distribute.in_place(wanted(target, baked)) == "archive"


def test_notes_are_not_believed(tmp_path):
    baked = bake(tmp_path / "baked/1", 1, 2, 3)
    _distribute.publish(baked, layout(baked), share(tmp_path), 2)
    request = wanted(tmp_path / "llama/1", baked)
    request.partial.mkdir(parents=True)
    content = bytearray((baked / "checkpoint.tar").read_bytes())
    content[5] ^= 1
    (request.partial / "checkpoint.tar").write_bytes(content)
    (request.partial / "done").write_text("0\n1\n99\n2")
    got = _distribute.fetch(request, share(tmp_path), 2)
    assert got["chunks"] == {"all": 3, "resumed": 2, "reused": 0, "fetched": 1}
    assert same(request.folder, baked)


def test_what_another_version_has_is_copied_and_compared(tmp_path):
    first, second = bake(tmp_path / "baked/1", 1, 2, 3, 9), bake(tmp_path / "baked/2", 1, 5, 2, 9)
    for version, folder in (("1", first), ("2", second)):
        sent = _distribute.publish(folder, layout(folder), share(tmp_path, version), 2)
    assert sent["shards"] == {"all": 4, "sent": 1}
    _distribute.fetch(wanted(tmp_path / "llama/1", first), share(tmp_path), 2)
    content = bytearray((tmp_path / "llama/1/checkpoint.tar").read_bytes())
    content[3] ^= 1
    (tmp_path / "llama/1/checkpoint.tar").write_bytes(content)
    got = _distribute.fetch(wanted(tmp_path / "llama/2", second), share(tmp_path, "2"), 2)
    assert got["chunks"] == {"all": 4, "resumed": 0, "reused": 2, "fetched": 2}
    assert same(tmp_path / "llama/2", second)


def test_damage_on_the_way_puts_nothing_in_place_and_keeps_what_was_good(tmp_path):
    baked = bake(tmp_path / "baked/1", 1, 2, 3)
    _distribute.publish(baked, layout(baked), share(tmp_path), 1)
    shard = _shards.read_index(share(tmp_path).get_index(), "it")[1]
    path = tmp_path / "share/llama/sha256" / shard.digest
    good = path.read_bytes()
    path.write_bytes(good[:50] + b"XXXX" + good[54:])
    request = wanted(tmp_path / "llama/1", baked)
    with pytest.raises(WarmstartError) as caught:
        _distribute.fetch(request, share(tmp_path), 1)
    assert caught.value.reason.code == "digest_mismatch"
    assert not request.folder.exists()
    path.write_bytes(good)
    assert _distribute.fetch(request, share(tmp_path), 1)["chunks"]["resumed"] >= 1
    assert same(request.folder, baked)


def test_shard_that_unpacks_to_more_than_its_chunk(tmp_path):
    shard = _shards.compress(bytes(10 * CHUNK), "0" * 64, tmp_path / "shard")
    with (tmp_path / "out").open("w+b") as file, pytest.raises(WarmstartError, match="other bytes"):
        _shards.unpack(tmp_path / "shard", shard, CHUNK, file.fileno(), 0)
    assert (tmp_path / "out").stat().st_size == 0


def test_other_checkpoints_are_refused(tmp_path):
    one, other = bake(tmp_path / "baked/1", 1, 2), bake(tmp_path / "other/1", 1, 3)
    _distribute.publish(one, layout(one), share(tmp_path), 1)
    _distribute.fetch(wanted(tmp_path / "llama/1", one), share(tmp_path), 1)
    for code, action in (
        ("version_published", lambda: _distribute.published(share(tmp_path), layout(other))),
        ("archive_exists", lambda: _distribute.in_place(wanted(tmp_path / "llama/1", other))),
        ("digest_mismatch", lambda: _distribute.fetch(wanted(tmp_path / "llama/2", other), share(tmp_path), 1)),
        ("registry_missing", lambda: _distribute.fetch(wanted(tmp_path / "llama/3", other), share(tmp_path, "9"), 1)),
        ("digest_mismatch", lambda: _distribute.fetch(wanted(tmp_path / "llama/4", other), None, 1)),
    ):
        with pytest.raises(WarmstartError) as caught:
            action()
        assert caught.value.reason.code == code


def test_damaged_source_is_not_published(tmp_path):
    baked = bake(tmp_path / "baked/1", 1, 2)
    described = layout(baked)
    (baked / "checkpoint.tar").write_bytes(bytes(CHUNK + 100))
    with pytest.raises(WarmstartError) as caught:
        _distribute.publish(baked, described, share(tmp_path), 1)
    assert caught.value.reason.code == "archive_corrupt"
    assert share(tmp_path).get_index() is None
    assert os.listdir(baked.parent) == ["1"]


def test_the_same_shards_make_the_same_bytes(tmp_path):
    one, other = (_shards.compress(b"pages" * 9999, "0" * 64, tmp_path / name) for name in "ab")
    assert one == other
    assert _shards.make_index([one]) == _shards.make_index([other])
    assert _shards.read_index(_shards.make_index([one]), "it") == [one]


@pytest.mark.parametrize("text", [b"", b"[]", b'{"layers": [{}]}', b'{"layers": [{"annotations": {}, "digest": "sha256:00", "size": 1}]}'])
def test_lists_that_are_none(text):
    with pytest.raises(WarmstartError, match="not the list"):
        _shards.read_index(text, "it")


@pytest.mark.parametrize(("line", "code"), list(zip((CAPTURES / "oras_1_3_3_errors.txt").read_text().splitlines(), CODES, strict=True)))
def test_what_oras_says(line, code):
    error = _transport.oras_error(line)
    assert error.reason.code == code
    assert "_state" not in str(error), "an upload's state is nobody's business"


def options(**more) -> dict:
    empty = dict.fromkeys(("username", "password", "auth_file", "ca_file"))
    return {**empty, "location": "registry.example.com/golden/llama", "tag": "1", "timeout": 1.0, "parallel": 2, **more}


@pytest.mark.parametrize(
    ("via", "wrong"),
    [
        ("registry", {"username": "fleet"}),
        ("registry", {"username": "fleet", "password": "secret", "auth_file": "/auth.json"}),
        ("registry", {"location": "registry.example.com/Golden"}),
        ("registry", {"location": "ftp://registry.example.com/golden"}),
        ("registry", {"location": "user:secret@registry.example.com/golden"}),
        ("registry", {"tag": "a/b"}),
        ("registry", {"parallel": 0}),
        ("http", {"location": "example.com"}),
        ("http", {"location": "https://user:secret@example.com/golden"}),
        ("http", {"location": "https://example.com", "ca_file": "/nonexistent"}),
    ],
)
def test_bad_input(via, wrong):
    with pytest.raises(WarmstartError) as caught, _transport.connect(Runner(), via, options(**wrong)):
        pass
    assert caught.value.reason.code == "bad_input"


def test_password_goes_into_a_private_file_that_goes_again(tmp_path):
    with _transport.connect(Runner(), "registry", options(username="fleet", password="secret")) as registry:
        config = Path(registry.options[-1])
        assert config.stat().st_mode & 0o777 == 0o600
        assert json.loads(config.read_text()) == {"auths": {"registry.example.com": {"auth": "ZmxlZXQ6c2VjcmV0"}}}
        assert "secret" not in " ".join(registry.options)
    assert not config.parent.exists()


def test_only_silence_is_waited_for(monkeypatch):
    monkeypatch.setattr(_transport, "WAITS", (0, 0))
    answers = [WarmstartError("registry_unreachable"), WarmstartError("registry_unreachable"), 7]

    def ask():
        answer = answers.pop(0)
        if isinstance(answer, WarmstartError):
            raise answer
        return answer

    assert _transport.persistent(ask) == 7
    answers += [WarmstartError("registry_auth"), 8]
    with pytest.raises(WarmstartError):
        _transport.persistent(ask)
    assert answers == [8]


def test_one_at_a_time(tmp_path):
    with _distribute.held(tmp_path / "a/b"), pytest.raises(WarmstartError) as caught, _distribute.held(tmp_path / "a/b"):
        pass
    assert caught.value.reason.code == "transfer_busy"


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    baked = bake(tmp_path / "baked/1", 1, 2)
    request = wanted(tmp_path / "llama/1", baked)

    def fallocate(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_distribute, "os", types.SimpleNamespace(**{**vars(os), "posix_fallocate": fallocate}))
    with pytest.raises(WarmstartError) as caught:
        _distribute.fetch(request, share(tmp_path), 1)
    assert (caught.value.reason.code, caught.value.facts["bytes_received"]) == ("disk_full", 0)
    assert not request.partial.exists()
