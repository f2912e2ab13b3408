"""podman_server, podman_checkpoint, podman_restore, podman_checkpoint_info on a lab host, with a real llama-server.

Each is tried as check -> real -> again, then every bad input: a clear reason, and nothing left behind.
"""

from __future__ import annotations

import json

import pytest

NAME, PORT = "llama", 8000
SERVER = {
    "image": "localhost/llama-server:1",
    "command": ["llama-server", "--model", "/models/small.gguf", "--host", "127.0.0.1", "--port", str(PORT)],
    "volumes": ["/srv/models:/models:ro"],
    "env": {"API_SECRET": "swordfish"},
    "network": "host",
}
PROBE = {"url": f"http://127.0.0.1:{PORT}", "timeout": 30}
FOLDER = "/var/lib/gpufleet-warmstart/test"
ARCHIVE = f"{FOLDER}/checkpoint.tar"
PRISTINE = "/var/lib/gpufleet-warmstart/pristine"
ANSWERS_500 = f"""
import socket
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", {PORT}))
listener.listen()
while True:
    client = listener.accept()[0]
    client.recv(9999)
    client.send(b"HTTP/1.1 500 Broken\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
    client.close()
"""
FLIP_ONE_BYTE = f"f = open('{ARCHIVE}', 'r+b'); f.seek(5000000); byte = f.read(1)[0]; f.seek(5000000); f.write(bytes([byte ^ 1]))"


def module(name: str) -> str:
    return f"gpufleet.warmstart.podman_{name}"


@pytest.fixture
def host(provisioned):
    """One lab host without containers and archives of a test before; and none left after it."""

    def clean() -> None:
        provisioned.ssh(
            provisioned.hosts[0], f"podman rm --force --all --time 0 >/dev/null; rm -rf {FOLDER}; umount /mnt/tiny 2>/dev/null; true"
        )

    class Host:
        name = provisioned.hosts[0]

        def __call__(self, name, args, **options):
            result = provisioned.ansible(module(name), args, self.name, **options)
            assert "swordfish" not in json.dumps(result)
            return result

        def ssh(self, command, **options):
            return provisioned.ssh(self.name, command, **options).stdout.strip()

        def containers(self):
            return self.ssh("podman ps --all --format '{{.Names}} {{.State}}'").splitlines()

    clean()
    yield Host()
    clean()


@pytest.fixture
def serving(host):
    result = host("server", {"name": NAME, "server": SERVER, "probe": PROBE})
    assert result["changed"], result
    return host


@pytest.fixture(scope="module")
def pristine(provisioned):
    """A checkpoint of the server, taken once."""
    for name, args in (
        ("server", {"name": NAME, "server": SERVER, "probe": PROBE}),
        ("checkpoint", {"name": NAME, "archive": f"{PRISTINE}/checkpoint.tar"}),
        ("server", {"name": NAME, "state": "absent"}),
    ):
        result = provisioned.ansible(module(name), args, provisioned.hosts[0])
        assert result["changed"], result


@pytest.fixture
def archived(pristine, host):
    """A checkpoint of the server in ARCHIVE, and no container."""
    host.ssh(f"cp -a {PRISTINE} {FOLDER}")
    return host


def refused(result: dict, reason: str) -> dict:
    assert result.get("failed"), result
    assert result["reason"] == reason, result
    assert result["fix"] in result["msg"]
    return result


# -- podman_server -----------------------------------------------------------------------------------------------------


def test_server_check_real_again_absent(host):
    wanted = {"name": NAME, "server": SERVER, "probe": PROBE}
    assert host("server", wanted, check=True)["changed"]
    assert host.containers() == []
    started = host("server", wanted)
    assert started["changed"]
    assert started["probe"]["tokens"]
    timings = started["timings"]
    assert timings["total"] == pytest.approx(timings["podman"] + timings["healthy"] + timings["first_token"], abs=0.01)
    assert not host("server", wanted)["changed"]
    assert not host("server", wanted, check=True)["changed"]
    assert host("server", {**wanted, "server": {**SERVER, "env": {}}})["changed"]  # another declaration
    assert host("server", {"name": NAME, "state": "stopped"})["changed"]
    assert host.containers() == [f"{NAME} exited"]
    assert not host("server", {"name": NAME, "state": "stopped"})["changed"]
    assert host("server", {"name": NAME, "state": "absent"}, check=True)["changed"]
    assert host("server", {"name": NAME, "state": "absent"})["changed"]
    assert not host("server", {"name": NAME, "state": "absent"})["changed"]
    assert host.containers() == []


def test_server_keeps_secrets_out_of_podmans_records(serving):
    assert "swordfish" not in serving.ssh(f"podman inspect {NAME} --format '{{{{.Config.CreateCommand}}}}'")
    assert "swordfish" in serving.ssh(f"podman exec {NAME} printenv API_SECRET")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"command": ["sleep", "60"]}, "refused"),
        ({"command": ["sh", "-c", "sleep 1.5; exit 3"]}, "server_exited"),
        ({"image": "localhost/nowhere:1"}, "image_missing"),
        ({"volumes": ["/no/such/folder:/models:ro"]}, "mount_missing"),
        ({"command": ["python3", "-c", ANSWERS_500]}, "unhealthy"),
    ],
)
def test_server_that_never_serves_is_removed_again(host, change, reason):
    result = host("server", {"name": NAME, "server": {**SERVER, **change}, "probe": {**PROBE, "timeout": 4}})
    refused(result, reason)
    assert host.containers() == []


def test_log_of_a_server_that_never_served_is_kept(host):
    command = ["sh", "-c", "echo swordfish; sleep 1; exit 3"]
    result = host("server", {"name": NAME, "server": {**SERVER, "command": command}, "probe": PROBE})
    refused(result, "server_exited")
    log = f"/run/gpufleet-warmstart/logs/{NAME}"
    assert f"Its log is kept in {log}." in result["msg"]
    assert host.ssh(f"cat {log}; stat -c %a {log}") == "swordfish\n600"


def test_server_on_a_taken_port_is_refused(serving):
    refused(serving("server", {"name": "second", "server": SERVER, "probe": PROBE}), "port_in_use")
    assert serving.containers() == [f"{NAME} running"]


# -- podman_checkpoint and podman_restore in place ---------------------------------------------------------------------


def test_checkpoint_and_restore_in_place(serving):
    before = serving("restore", {"name": NAME, "probe": PROBE})
    assert before["path_taken"] == "running"
    assert serving("checkpoint", {"name": NAME}, check=True)["changed"]
    assert serving.containers() == [f"{NAME} running"]
    taken = serving("checkpoint", {"name": NAME})
    assert taken["changed"]
    assert taken["parts"]["pages"] > 1 << 20
    assert {"podman", "criu", "freezing", "frozen", "dump", "write", "total"} <= set(taken["timings"])
    assert serving.containers() == [f"{NAME} exited"]
    assert not serving("checkpoint", {"name": NAME})["changed"]
    assert not serving("checkpoint", {"name": NAME}, check=True)["changed"]

    wanted = {"name": NAME, "probe": PROBE}
    assert serving("restore", wanted, check=True)["changed"]
    assert serving.containers() == [f"{NAME} exited"]
    restored = serving("restore", wanted)
    assert restored["changed"]
    assert restored["path_taken"] == "in_place"
    assert restored["probe"]["tokens"] == before["probe"]["tokens"]  # the oracle
    timings = restored["timings"]
    assert timings["criu"] < timings["podman"] < timings["total"]
    assert not serving("restore", wanted)["changed"]
    assert not serving("restore", wanted, check=True)["changed"]

    # kept: it can be restored again, and a new checkpoint replaces it
    serving("server", {"name": NAME, "state": "stopped"})
    assert serving("restore", wanted)["path_taken"] == "in_place"
    assert serving("checkpoint", {"name": NAME, "leave_running": True})["changed"]
    assert serving.containers() == [f"{NAME} running"]
    assert not serving("checkpoint", {"name": NAME, "leave_running": True})["changed"]
    assert serving("checkpoint", {"name": NAME, "leave_running": True, "force": True})["changed"]
    assert serving("checkpoint", {"name": NAME})["changed"]  # running is not what was asked for
    assert serving.containers() == [f"{NAME} exited"]


def test_restore_in_place_without_keep_uses_the_checkpoint_up(serving):
    serving("checkpoint", {"name": NAME})
    assert serving("restore", {"name": NAME, "keep": False, "probe": PROBE})["changed"]
    serving("server", {"name": NAME, "state": "stopped"})
    refused(serving("restore", {"name": NAME, "probe": PROBE}), "checkpoint_missing")


def test_action_script_runs(serving):
    serving.ssh("printf '#!/bin/sh\\necho $CRTOOLS_SCRIPT_ACTION >>/run/hooks\\n' >/run/hook; chmod 700 /run/hook; rm -f /run/hooks")
    config = {"action-script": ["/run/hook"]}
    assert serving("checkpoint", {"name": NAME, "criu_config": config})["changed"]
    assert serving("restore", {"name": NAME, "criu_config": config, "probe": PROBE})["changed"]
    hooks = serving.ssh("cat /run/hooks").split()
    assert {"pre-dump", "post-dump", "pre-restore", "post-restore"} <= set(hooks)
    assert serving.ssh("ls -d /run/warmstart-criu-* 2>/dev/null; true") == ""


# -- with an archive ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", ["none", "gzip", "zstd"])
def test_archive_check_real_again(serving, compress):
    wanted = {"name": NAME, "archive": ARCHIVE, "compress": compress, "leave_running": True, "metadata": {"why": "test"}}
    assert serving("checkpoint", wanted, check=True)["changed"]
    assert serving.ssh(f"ls {FOLDER} 2>/dev/null; true") == ""
    taken = serving("checkpoint", wanted)
    assert taken["changed"], taken
    assert not serving("checkpoint", wanted)["changed"]
    assert serving.ssh(f"ls -A {FOLDER}").split() == ["checkpoint.tar", "manifest.json"]
    assert serving.ssh(f"stat -c %a {FOLDER} {ARCHIVE} {FOLDER}/manifest.json").split() == ["700", "600", "600"]
    manifest = taken["manifest"]
    assert manifest["metadata"] == {"why": "test"}
    # one chunk: the archive is small
    assert serving.ssh(f"sha256sum {ARCHIVE}").split()[:1] == manifest["archive"]["chunks"]

    told = serving("checkpoint_info", {"archive": ARCHIVE})
    assert not told["changed"]
    assert told["manifest"] == manifest
    assert told["compression"] == compress
    assert told["checkpoint"]["name"] == NAME
    assert "API_SECRET" in told["checkpoint"]["environment_names"]
    assert told["checkpoint"]["mounts"] == [
        {"source": "/srv/models", "destination": "/models", "options": told["checkpoint"]["mounts"][0]["options"]}
    ]
    assert told["versions"]["criu"].startswith("4.")

    before = serving("restore", {"name": NAME, "probe": PROBE})["probe"]["tokens"]
    restore = {"name": NAME, "archive": ARCHIVE, "probe": PROBE}
    refused(serving("restore", restore), "name_in_use")
    assert serving("restore", {**restore, "replace": True}, check=True)["changed"]
    restored = serving("restore", {**restore, "replace": True})
    assert restored["path_taken"] == "archive"
    assert restored["probe"]["tokens"] == before
    assert serving.containers() == [f"{NAME} running"]
    assert not serving("restore", {**restore, "replace": True})["changed"]
    assert not serving("restore", restore)["changed"]


def test_info_of_a_checkpoint_in_place(serving):
    refused(serving("checkpoint_info", {"name": NAME}), "checkpoint_missing")
    serving("checkpoint", {"name": NAME, "leave_running": True})
    told = serving("checkpoint_info", {"name": NAME})
    assert told["checkpoint"]["command"] == SERVER["command"]
    assert told["size"] == sum(told["parts"].values())


def test_fallback_cold_starts_and_says_why(archived):
    archived.ssh(f"truncate -s 100000 {ARCHIVE}")
    wanted = {"name": NAME, "archive": ARCHIVE, "probe": PROBE, "fallback": SERVER}
    assert archived("restore", wanted, check=True)["path_taken"] == "cold_start"
    assert archived.containers() == []
    result = archived("restore", wanted)
    assert result["path_taken"] == "cold_start"
    assert result["reason"] == "archive_corrupt"
    assert result["probe"]["tokens"]
    assert archived.containers() == [f"{NAME} running"]


def test_fallback_that_fails_too_leaves_nothing(archived):
    archived.ssh(f"rm {ARCHIVE}")
    broken = {**SERVER, "command": ["sh", "-c", "sleep 1.2; exit 1"]}
    result = archived("restore", {"name": NAME, "archive": ARCHIVE, "probe": PROBE, "fallback": broken})
    refused(result, "server_exited")
    assert result["restore_reason"] == "archive_missing"
    assert archived.containers() == []


def test_replaced_server_comes_back_when_the_restore_fails(serving):
    serving("checkpoint", {"name": NAME, "archive": ARCHIVE, "leave_running": True})
    # whole, but not to be restored: its mount is gone
    serving.ssh("mkdir -p /srv/gone")
    other = {**SERVER, "volumes": [*SERVER["volumes"], "/srv/gone:/gone"]}
    serving("server", {"name": NAME, "state": "absent"})
    serving("server", {"name": NAME, "server": other, "probe": PROBE})
    serving("checkpoint", {"name": NAME, "archive": f"{FOLDER}/b/checkpoint.tar"})
    serving("server", {"name": NAME, "state": "absent"})
    serving("server", {"name": NAME, "server": SERVER, "probe": PROBE})
    serving.ssh("rmdir /srv/gone")
    result = serving("restore", {"name": NAME, "archive": f"{FOLDER}/b/checkpoint.tar", "probe": PROBE, "replace": True})
    refused(result, "mount_missing")
    assert serving.containers() == [f"{NAME} running"]
    assert serving("restore", {"name": NAME, "probe": PROBE})["path_taken"] == "running"


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_no_such_container(host):
    refused(host("checkpoint", {"name": "nobody"}), "container_missing")
    refused(host("checkpoint_info", {"name": "nobody"}), "container_missing")
    refused(host("restore", {"name": "nobody"}), "checkpoint_missing")
    assert host.containers() == []


def test_container_already_stopped(serving):
    serving("server", {"name": NAME, "state": "stopped"})
    refused(serving("checkpoint", {"name": NAME}), "container_not_running")
    refused(serving("checkpoint", {"name": NAME}, check=True), "container_not_running")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (f"rm {ARCHIVE}", "archive_missing"),
        (f"truncate -s -200000 {ARCHIVE}", "archive_corrupt"),
        (f'python3 -c "{FLIP_ONE_BYTE}"', "archive_corrupt"),  # in the memory pages, where only the digest can tell
        (f"echo hello >{ARCHIVE}", "archive_corrupt"),
        (f"rm {FOLDER}/manifest.json; echo hello >{ARCHIVE}", "archive_corrupt"),
        (f"rm {FOLDER}/manifest.json; truncate -s 300000 {ARCHIVE}", "archive_corrupt"),
        (f"echo nonsense >{FOLDER}/manifest.json", "manifest_invalid"),
    ],
)
def test_damaged_archive(archived, damage, reason):
    archived.ssh(damage)
    refused(archived("restore", {"name": NAME, "archive": ARCHIVE, "probe": PROBE}), reason)
    assert archived.containers() == []


@pytest.mark.parametrize(("size", "compress"), [("4m", "none"), ("200k", "gzip")])
def test_not_enough_disk_for_an_archive(serving, size, compress):
    """Uncompressed, it is refused before the dump; compressed, podman's export fails, and the container is brought back."""
    serving.ssh(f"mkdir -p /mnt/tiny && mount -t tmpfs -o size={size} tmpfs /mnt/tiny")
    result = serving("checkpoint", {"name": NAME, "archive": "/mnt/tiny/a/checkpoint.tar", "compress": compress})
    refused(result, "disk_full")
    assert serving.ssh("ls -A /mnt/tiny/a") == ""
    assert serving.containers() == [f"{NAME} running"]
    assert serving("restore", {"name": NAME, "probe": PROBE})["probe"]["tokens"]


def test_failed_dump_leaves_the_server_serving_and_the_last_checkpoint(serving):
    serving("checkpoint", {"name": NAME, "leave_running": True})
    last = serving.ssh("sha256sum /var/lib/containers/storage/overlay-containers/*/userdata/checkpoint/pages-1.img")
    client = f"exec 3<>/dev/tcp/127.0.0.1/{PORT}; sleep 1; echo ready; sleep 20"
    serving.ssh(f"nohup setsid bash -c '{client}' >/run/client 2>&1 & sleep 2; cat /run/client")
    refused(serving("checkpoint", {"name": NAME, "force": True}), "tcp_established")
    assert serving.containers() == [f"{NAME} running"]
    assert serving.ssh("sha256sum /var/lib/containers/storage/overlay-containers/*/userdata/checkpoint/pages-1.img") == last
    assert serving("checkpoint", {"name": NAME, "force": True, "tcp_established": True})["changed"]
    assert serving("restore", {"name": NAME, "tcp_established": True, "probe": PROBE})["probe"]["tokens"]


def test_port_taken(archived):
    archived.ssh(
        f"nohup setsid python3 -c \"import socket,time; s=socket.socket(); s.setsockopt(1,2,1); s.bind(('127.0.0.1',{PORT})); s.listen(); "
        'time.sleep(25)" >/dev/null 2>&1 & echo $! >/run/listener; sleep 0.5'
    )
    refused(archived("restore", {"name": NAME, "archive": ARCHIVE, "probe": PROBE}), "port_in_use")
    assert archived.containers() == []
    archived.ssh("kill $(cat /run/listener)")


def test_name_taken(archived):
    archived.ssh("podman run -d --name llama localhost/llama-server:1 sleep 99")
    refused(archived("restore", {"name": NAME, "archive": ARCHIVE, "probe": PROBE}), "name_in_use")
    assert archived.containers() == [f"{NAME} running"]


def test_image_that_is_not_the_same(archived):
    archived.ssh(
        "podman run --name other localhost/llama-server:1 touch /x && podman commit -q other localhost/llama-server:1 && podman rm other"
    )
    try:
        refused(archived("restore", {"name": NAME, "archive": ARCHIVE, "probe": PROBE}), "image_missing")
    finally:
        archived.ssh("podman rmi localhost/llama-server:1")
    assert archived.containers() == []
    assert archived("restore", {"name": NAME, "archive": ARCHIVE, "probe": PROBE})["path_taken"] == "archive"


@pytest.mark.parametrize(
    ("name", "args", "reason"),
    [
        ("restore", {"name": NAME, "archive": ARCHIVE, "tcp_established": True}, "bad_input"),
        ("restore", {"name": NAME, "probe": {**PROBE, "interval": 0}}, "bad_input"),
        ("restore", {"name": NAME, "publish": ["1:1"]}, "bad_input"),
        ("checkpoint", {"name": NAME, "compress": "zstd"}, "bad_input"),
        ("checkpoint", {"name": NAME, "criu_config": {"no-such-option": 1}}, "bad_input"),
        ("checkpoint", {"name": NAME, "criu_config": {"tcp-established": True}}, "bad_input"),
        ("checkpoint", {"name": NAME, "criu_path": "/no/criu"}, "criu_missing"),
        ("checkpoint", {"name": NAME, "archive": "relative/checkpoint.tar"}, "bad_input"),
    ],
)
def test_arguments_that_cannot_work(serving, name, args, reason):
    refused(serving(name, args), reason)
    assert serving.containers() == [f"{NAME} running"]


def test_runtime_without_criu(serving):
    serving.ssh("mkdir /run/away && mv /usr/lib/x86_64-linux-gnu/libcriu.so* /run/away/")
    try:
        refused(serving("checkpoint", {"name": NAME}), "runtime_without_criu")
    finally:
        serving.ssh("mv /run/away/* /usr/lib/x86_64-linux-gnu/ && rmdir /run/away")
    assert serving.containers() == [f"{NAME} running"]


def test_criu_absent(serving):
    serving.ssh("mv /usr/sbin/criu /usr/sbin/criu.away")
    try:
        refused(serving("checkpoint", {"name": NAME}), "criu_missing")
    finally:
        serving.ssh("mv /usr/sbin/criu.away /usr/sbin/criu")
    assert serving.containers() == [f"{NAME} running"]
