"""_signature.py and _golden.read_signed() with the real ssh-keygen: good, missing, of an unknown key, over another text."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _golden, _signature
from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

MANIFEST = (Path(__file__).parents[2] / "captures" / "manifest_llama.json").read_bytes()


def keygen(*arguments: object) -> None:
    subprocess.run(["ssh-keygen", "-q", *map(str, arguments)], check=True, capture_output=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        keygen("-t", "ed25519", "-N", "", "-C", name, "-f", folder / name)
    return folder


@pytest.fixture
def signed(tmp_path, keys):
    """An archive whose manifest is signed, and the line that allows it."""
    (tmp_path / "manifest.json").write_bytes(MANIFEST)
    sign(tmp_path, keys / "ours")
    return tmp_path / "checkpoint.tar", allowed(keys / "ours")


def sign(folder: Path, key: Path, namespace: str = "gpufleet-warmstart") -> None:
    (folder / "manifest.json.sig").unlink(missing_ok=True)
    keygen("-Y", "sign", "-f", key, "-n", namespace, folder / "manifest.json")


def allowed(key: Path, options: str = 'namespaces="gpufleet-warmstart" ') -> str:
    return f"ops@example.com {options}{' '.join(key.with_suffix('.pub').read_text().split()[:2])}"


def refusal(archive: Path, signers: str) -> str:
    with pytest.raises(WarmstartError) as error:
        _golden.read_signed(Runner(), archive, signers)
    return error.value.reason.code


def test_a_good_signature_names_its_signer(signed):
    archive, signers = signed
    assert _golden.read_signed(Runner(), archive, signers)["container"]["name"] == "llama"
    assert _signature.verify(Runner(), archive.with_name("manifest.json"), MANIFEST, f"# comment\n\n{signers}\n") == "ops@example.com"


def test_an_edited_manifest(signed):
    archive, signers = signed
    archive.with_name("manifest.json").write_bytes(MANIFEST.replace(b'"llama"', b'"lllma"'))
    assert refusal(archive, signers) == "signature_invalid"


def test_a_key_that_is_not_allowed(signed, keys):
    archive, signers = signed
    sign(archive.parent, keys / "theirs")
    assert refusal(archive, signers) == "signature_unknown"
    _golden.read_signed(Runner(), archive, f"{signers}\n{allowed(keys / 'theirs')}")


def test_a_signature_made_for_something_else(signed, keys):
    archive, _signers = signed
    sign(archive.parent, keys / "ours", "file")
    assert refusal(archive, allowed(keys / "ours", "")) == "signature_invalid"


def test_an_expired_key(signed, keys):
    assert refusal(signed[0], allowed(keys / "ours", 'valid-before="20200101" ')) in ("signature_invalid", "signature_unknown")


@pytest.mark.parametrize("file", ["manifest.json.sig", "manifest.json"])
def test_nothing_to_verify(signed, file):
    archive, signers = signed
    archive.with_name(file).unlink()
    assert refusal(archive, signers) == "signature_missing"


def test_a_signed_manifest_of_another_archive(signed):
    archive, signers = signed
    assert refusal(archive.with_name("other.tar"), signers) == "signature_missing"


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"])
def test_a_damaged_signature(signed, damage):
    archive, signers = signed
    archive.with_name("manifest.json.sig").write_bytes(damage)
    assert refusal(archive, signers) == "signature_invalid"


@pytest.mark.parametrize("signers", ["", "\n# nobody\n", "/etc/allowed_signers", "ops ssh-ed25519"])
def test_a_list_that_allows_nobody_is_no_way_around(signed, signers):
    assert refusal(signed[0], signers) == "bad_input"
