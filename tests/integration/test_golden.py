"""Golden checkpoints on the lab's hosts: classes, signatures, what a restore refuses, versions and retention."""

from __future__ import annotations

import json
import subprocess

import pytest
from labtool import came_by

STORE = "/var/lib/gpufleet-warmstart/golden"
FOLDER = f"{STORE}/signed/1"
ARCHIVE = f"{FOLDER}/checkpoint.tar"
SERVER = {
    "engine": "llama_cpp",
    "image": "localhost/llama-server:1",
    "command": ["llama-server", "--model", "/models/small.gguf", "--host", "127.0.0.1", "--port", "8000", "--threads", "1"],
    "volumes": ["/srv/models:/models:ro"],
    "network": "host",
}
PROBE = {"url": "http://127.0.0.1:8000", "timeout": 30}
RESTORE = {"name": "signed", "archive": ARCHIVE, "probe": PROBE}
# Writes the archive once more with something changed in spec.dump, and the manifest with its new digests, as who has no key could.
FORGE = f"""
import hashlib, io, json, pathlib, sys, tarfile
path = pathlib.Path("{ARCHIVE}")
with tarfile.open(path) as old, tarfile.open("/run/forged.tar", "w", format=tarfile.PAX_FORMAT) as new:
    for member in old:
        content = old.extractfile(member).read() if member.isreg() else b""
        if member.name == "spec.dump":
            spec = json.loads(content)
            exec(sys.argv[1])
            content = json.dumps(spec).encode()
            member.size = len(content)
        new.addfile(member, io.BytesIO(content))
content = pathlib.Path("/run/forged.tar").read_bytes()
path.write_bytes(content)
manifest = json.loads(path.with_name("manifest.json").read_text())
chunks = [hashlib.sha256(content).hexdigest()]
manifest["archive"].update(size=len(content), chunks=chunks, digest=hashlib.sha256("".join(chunks).encode()).hexdigest())
path.with_name("manifest.json").write_text(json.dumps(manifest))
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        public = " ".join((folder / f"{name}.pub").read_text().split()[:2])
        (folder / f"{name}.allowed").write_text(f"{name} {public}\n")
    return folder


# Makes host 1 one of another class: the same CRIU, that says it is a newer one.
NEWER_CRIU = """#!/bin/sh
[ "$*" = --version ] && { echo "Version: 4.2.9"; exit; }
exec /usr/sbin/criu "$@"
"""


@pytest.fixture(scope="module")
def signed(provisioned, keys, tmp_path_factory):
    """A golden checkpoint of two classes, baked and signed by the playbook; on both hosts and on the controller."""
    provisioned.ssh(provisioned.hosts[1], f"cat >/usr/local/sbin/criu <<'END' && chmod 755 /usr/local/sbin/criu\n{NEWER_CRIU}END")
    store = tmp_path_factory.mktemp("store")
    variables = {
        "warmstart_server": {"name": "signed", **SERVER},
        "warmstart_controller_store": str(store),
        "warmstart_signing_key": str(keys / "ours"),
        "warmstart_allowed_signers": str(keys / "ours.allowed"),
        "warmup_requests": 1,
    }
    code, output = provisioned.playbook("golden", variables)
    assert code == 0, output
    yield provisioned, store, variables
    for host in provisioned.hosts:
        provisioned.ssh(host, f"podman rm --force --all --time 0 >/dev/null; rm -rf {STORE}/signed /usr/local/sbin/criu")


@pytest.fixture
def host(signed, keys):
    """Host 0 without a container; the golden checkpoint as it was signed, before and after."""
    lab = signed[0]
    lab.ssh(lab.hosts[0], f"podman rm --force --all --time 0 >/dev/null; rm -rf /run/kept; cp -a {FOLDER} /run/kept")

    class Host:
        ours, theirs = ((keys / f"{name}.allowed").read_text() for name in ("ours", "theirs"))

        def __call__(self, module, args=None, **options):
            return lab.ansible(f"gpufleet.warmstart.{module}", args, lab.hosts[0], **options)

        def ssh(self, command):
            return lab.ssh(lab.hosts[0], command).stdout.strip()

        def refused(self, reason, **more):
            result = self("podman_restore", {**RESTORE, **more})
            assert (result.get("reason"), result.get("failed")) == (reason, True), result
            assert not any("container restore" in " ".join(command) for command in result["commands"])  # podman was not asked
            assert self.ssh("podman ps --all --quiet") == ""

    yield Host()
    lab.ssh(lab.hosts[0], f"podman rm --force --all --time 0 >/dev/null; rm -rf {FOLDER}; mv /run/kept {FOLDER}; rm -f /run/forged.tar")


def test_one_is_baked_for_each_class(signed):
    lab, store, _variables = signed
    folders = sorted((store / "signed" / "1").iterdir())
    assert len(folders) == 2
    for name, folder in zip(lab.hosts, folders):
        told = lab.ansible("gpufleet.warmstart.golden_compatibility", {}, name)
        assert told["class"] == folder.name
        assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.tar", "manifest.json", "manifest.json.sig"]
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["host"] == told["host"]
        assert manifest["engine"]["name"] == "llama_cpp"
        assert manifest["engine"]["version"]  # it was asked
        assert lab.ssh(name, f"readlink {STORE}/signed/current; ls {FOLDER}/manifest.json.sig").stdout.split()[0] == "1"


def test_compatibility_before_any_byte_moves(signed):
    lab, store, _variables = signed
    manifest = json.loads(next(store.glob("signed/1/*criu4.2.9*/manifest.json")).read_text())

    def compare(**change) -> dict:
        wanted = {"manifest": {**manifest, "host": {**manifest["host"], **change}}}
        result = lab.ansible("gpufleet.warmstart.golden_compatibility", wanted, lab.hosts[1])
        assert not result["changed"]
        return {**result, "levels": {row["fact"]: row["level"] for row in result["differences"] if row["level"] != "ok"}}

    assert (compare()["compatible"], compare()["levels"]) == (True, {})
    assert compare(podman="4.9")["levels"] == {"podman": "warning"}
    other = compare(kernel="9.1.0", criu="5.0")
    assert (other["compatible"], other["levels"]) == (False, {"kernel": "fatal", "criu": "fatal"})
    assert all(other["class"] in row["fix"] for row in other["differences"] if row["level"] == "fatal")
    # a real answer of criu cpuinfo check: the image of a CPU of which nothing is known here
    assert compare(cpu={**manifest["host"]["cpu"], "criu": "AAAAAAAA"})["levels"] == {"cpu": "fatal"}
    old = lab.ansible("gpufleet.warmstart.golden_compatibility", {"manifest": {"schema": 1}}, lab.hosts[1])
    assert old["reason"] == "manifest_schema"
    here = lab.ansible("gpufleet.warmstart.golden_compatibility", {"manifest_file": f"{FOLDER}/manifest.json"}, lab.hosts[0])
    assert here["compatible"]


def test_rollout_takes_the_hosts_own_class_or_says_why_none_fits(signed):
    lab, store, variables = signed
    host = lab.hosts[1]
    only = {**variables, "warmstart_hosts": host, "restore_on_failure": []}
    lab.ssh(host, f"podman rm --force --all --time 0 >/dev/null; rm -rf {STORE}/signed")
    code, output = lab.playbook("rollout", only)
    assert code == 0, output
    assert came_by(output, host) == "archive"
    assert '"class": "cpu-' in (manifest := lab.ssh(host, f"cat {STORE}/signed/current/manifest.json").stdout)
    assert "criu4.2.9" in json.loads(manifest)["class"]  # the other one would do, too, with a warning

    kept = {path: path.read_text() for path in store.glob("signed/1/*/manifest.json")}
    for path, text in kept.items():
        path.write_text(text.replace('"criu": "4.', '"criu": "9.'))
    code, output = lab.playbook("rollout", only)
    for path, text in kept.items():
        path.write_text(text)
    assert code != 0
    for path in kept:
        assert f"Class {path.parent.name}: criu 4.2.9 here, 9.2." in output
    assert "or rebake for class cpu-" in output


def test_a_signature_is_verified_before_podman_opens_the_archive(host):
    host.refused("signature_unknown", allowed_signers=host.theirs)
    host.ssh(f'sed -i \'s/"version": "1"/"version": "2"/\' {FOLDER}/manifest.json')
    host.refused("signature_invalid", allowed_signers=host.ours)
    host.ssh(f"cp /run/kept/manifest.json {FOLDER}/; rm {FOLDER}/manifest.json.sig")
    host.refused("signature_missing", allowed_signers=host.ours)
    host.ssh(f"cp /run/kept/manifest.json.sig {FOLDER}/; truncate -s -1 {ARCHIVE}")
    host.refused("archive_corrupt", allowed_signers=host.ours)
    host.ssh(f"cp -a /run/kept/checkpoint.tar {FOLDER}/")
    result = host("podman_restore", {**RESTORE, "allowed_signers": host.ours})
    assert result["path_taken"] == "archive", result


@pytest.mark.parametrize(
    ("change", "reason", "expect"),
    [
        ("spec['hooks'] = {'createContainer': [{'path': '/usr/bin/touch', 'args': ['touch', '/run/hooked']}]}", "unexpected_hook", "hook"),
        ("spec['annotations']['org.criu.config'] = '/run/evil.conf'", "unexpected_criu_config", "criu_config"),
        (
            "spec['mounts'].append({'type': 'bind', 'source': '/etc', 'destination': '/mnt', 'options': ['rbind']})",
            "unexpected_mount",
            None,
        ),
        ("spec['process']['capabilities']['bounding'].append('CAP_SYS_ADMIN')", "unexpected_privileged", "privileged"),
    ],
)
def test_a_forged_archive_is_refused(host, change, reason, expect):
    host.ssh(f"python3 - \"{change}\" <<'END'\n{FORGE}\nEND")
    host.refused(reason)
    told = host("podman_checkpoint_info", {"archive": ARCHIVE})["checkpoint"]["findings"]
    assert f"unexpected_{told[0]['code']}" == reason or f"unexpected_{told[-1]['code']}" == reason
    if expect:
        accepted = host("podman_restore", {**RESTORE, "expect": [expect]}, check=True)
        assert accepted["path_taken"] == "archive", accepted


def test_versions_come_and_go(host):
    folder = f"{STORE}/signed"
    host.ssh(
        f"for version in 2 3; do cp -a {FOLDER} {folder}/$version; done; mkdir {folder}/4; cp {ARCHIVE} {folder}/4/.checkpoint.tar.partial"
    )
    wanted = {"folder": folder, "version": "2"}
    assert host("golden_versions", wanted, check=True)["removed"] == ["3", "4"]
    assert host.ssh(f"ls {folder}").split() == ["1", "2", "3", "4", "current"]
    done = host("golden_versions", wanted, diff=True)
    assert (done["current"], done["previous"], done["removed"]) == ("2", "1", ["3", "4"])
    assert done["diff"]["before"]["current"] == "1"
    assert not host("golden_versions", wanted)["changed"]
    assert host.ssh(f"ls -A {folder}; readlink {folder}/current {folder}/previous").split() == ["1", "2", "current", "previous", "2", "1"]
    assert host("golden_versions", {"folder": folder, "version": "9"})["reason"] == "archive_missing"
    back = host("golden_versions", {"folder": folder, "version": "1", "keep": 1})
    assert (back["current"], back["previous"], back["removed"]) == ("1", "", ["2"])
