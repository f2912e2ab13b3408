# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Golden checkpoints from one lab host to the other: role distribute and its modules against Debian's docker-registry (TLS by a CA made
here, htpasswd) and nginx (TLS, WebDAV), both on the first host.

Archives are synthetic, of 1 MiB chunks; what happens to a checkpoint afterwards is in test_playbooks.py. Touches the lab's hosts only.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import sys

import pytest
from labtool import run

STORE = "/var/lib/gpufleet-warmstart/golden"
CA = "/srv/distribute/ca.crt"
USER, PASSWORD = "fleet", "lab-Secret-4711"
CHUNKS = 8

# Packages, CA, certificates, user, and a script `service` that starts, or kills by process ID, either server.
SERVE = rf"""set -e
export DEBIAN_FRONTEND=noninteractive
servers='docker-registry apache2-utils nginx-light openssl'
dpkg -s $servers >/dev/null 2>&1 ||
    {{ apt-get -qq update && apt-get -qq install --yes --no-install-recommends $servers; }} >/dev/null 2>&1
rm -rf /srv/distribute; mkdir -p /srv/distribute/www/golden; cd /srv/distribute
key() {{ openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "$@" 2>/dev/null; }}
key -x509 -keyout ca.key -out ca.crt -days 2 -subj '/CN=CA of the lab' -addext keyUsage=critical,keyCertSign
key -keyout server.key -out server.csr -subj '/CN=server'
printf 'subjectAltName=IP:ADDRESS\nauthorityKeyIdentifier=keyid' >names
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt 2>/dev/null
htpasswd -Bbn {USER} {PASSWORD} >htpasswd; htpasswd -bn {USER} {PASSWORD} >htpasswd.nginx
cat >registry.yml <<END
version: 0.1
storage: {{filesystem: {{rootdirectory: /srv/distribute/registry}}}}
http: {{addr: "0.0.0.0:5000", tls: {{certificate: /srv/distribute/server.crt, key: /srv/distribute/server.key}}}}
auth: {{htpasswd: {{realm: lab, path: /srv/distribute/htpasswd}}}}
END
cat >nginx.conf <<END
daemon off; worker_processes 1; master_process off; pid /srv/distribute/nginx.own; error_log stderr; user root;
events {{}}
http {{ client_max_body_size 0; access_log /srv/distribute/nginx.access; server {{
    listen 8443 ssl sndbuf=32k; ssl_certificate server.crt; ssl_certificate_key server.key; root /srv/distribute/www;
    location / {{ auth_basic lab; auth_basic_user_file htpasswd.nginx; dav_methods PUT; create_full_put_path on; }}
}} }}
END
cat >service <<'END'
#!/bin/sh
cd /srv/distribute
[ "$2" = kill ] && exec kill -9 "$(cat $1.pid)"
case $1 in
registry) set -- registry 5000 docker-registry serve registry.yml ;;
nginx) set -- nginx 8443 nginx -p /srv/distribute/ -c nginx.conf ;;
esac
name=$1 port=$2
shift 2
setsid "$@" >>$name.log 2>&1 </dev/null &
echo $! >$name.pid
until curl -sk -o /dev/null https://127.0.0.1:$port/; do sleep 0.05; done
END
chmod +x service; ./service registry; ./service nginx
"""

# A golden checkpoint: argv are NAME, VERSION, how many chunks differ from version 1, and how many there are.
BAKE = """
import hashlib, json, os, random, sys
name, version, changed, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
folder = f"STORE/{name}/{version}"
os.makedirs(folder, mode=0o700)
digests = []
with open(f"{folder}/checkpoint.tar", "wb") as file:
    for index in range(count):
        source = random.Random(f"{name} {index} {version if index < changed else 1}")
        chunk = (source.randbytes(3 << 18) + bytes(1 << 18))[: 1000 if index == count - 1 else None]
        file.write(chunk)
        digests.append(hashlib.sha256(chunk).hexdigest())
archive = {"file": "checkpoint.tar", "size": (count - 1 << 20) + 1000, "chunk_size": 1 << 20, "chunks": digests}
with open(f"{folder}/manifest.json", "w") as file:
    json.dump({"schema": 2, "archive": archive, "name": name, "version": version}, file)
""".replace("STORE", STORE)


class Fleet:
    """The two hosts: one bakes and serves, the other fetches."""

    def __init__(self, lab) -> None:
        self.lab = lab
        self.baker, self.other = lab.hosts
        self.address = lab._addresses[self.baker]["ansible_host"]
        self.registry, self.web = f"{self.address}:5000/golden", f"https://{self.address}:8443/golden"
        self.access = {"username": USER, "password": PASSWORD, "ca_file": CA}

    def bake(self, name: str, version: str = "1", changed: int = 0, count: int = CHUNKS) -> str:
        self.lab.ssh(self.baker, f"python3 -c {shlex.quote(BAKE)} {name} {version} {changed} {count}")
        return name

    def where(self, via: str, name: str, version: str) -> dict:
        location = self.registry if via == "registry" else self.web
        return {"via": via, "location": f"{location}/{name}", "tag": version, **self.access, "folder": f"{STORE}/{name}/{version}"}

    def publish(self, name: str, version: str = "1", via: str = "registry", *, check: bool = False, **more) -> dict:
        return self.lab.ansible("gpufleet.warmstart.golden_publish", {**self.where(via, name, version), **more}, self.baker, check=check)

    def fetch(self, name: str, version: str = "1", via: str = "registry", *, check: bool = False, **more) -> dict:
        manifest = self.lab.ssh(self.baker, f"cat {STORE}/{name}/{version}/manifest.json").stdout
        args = {**self.where(via, name, version), "manifest": base64.b64encode(manifest.encode()).decode(), **more}
        return self.lab.ansible("gpufleet.warmstart.golden_fetch", args, self.other, check=check)

    def serve(self, *words: str) -> None:
        self.lab.ssh(self.baker, f"/srv/distribute/service {' '.join(words)}")

    def kill_after(self, service: str, log: str, pattern: str, count: int, before: str = "true", then: str = "true") -> None:
        """Kill the server when its log has `count` more lines of the pattern; `before` and `then` are run around that."""
        reached = f"[ $(($(grep -c {pattern} {log}) - start)) -ge {count} ]"
        watch = f"start=$(grep -c {pattern} {log}); until {reached}; do sleep 0.01; done; "
        watch += f"{before}; /srv/distribute/service {service} kill; {then}"
        self.lab.ssh(self.baker, f"setsid sh -c {shlex.quote(watch)} >/dev/null 2>&1 </dev/null &")

    def same(self, name: str, version: str = "1") -> bool:
        """Whether the other host has what was baked, in private files, and nothing beside it."""
        show = f"cd {STORE}/{name}/{version} && sha256sum * && stat --format '%a %n' . *; ls -A"
        listing = f"ls -A {STORE}/{name}"
        got = self.lab.ssh(self.other, show).stdout
        assert [line.split()[0] for line in got.splitlines() if line[:2] in ("60", "70")] == ["700", "600", "600"], got
        assert ".partial" not in self.lab.ssh(self.other, listing).stdout
        return got.splitlines()[:2] == self.lab.ssh(self.baker, show).stdout.splitlines()[:2]

    def nothing_there(self, name: str, version: str = "1") -> bool:
        return self.lab.ssh(self.other, f"ls -d {STORE}/{name}/{version}", check=False).returncode != 0


@pytest.fixture(scope="module")
def fleet(provisioned):
    made = Fleet(provisioned)
    provisioned.ssh(made.baker, SERVE.replace("ADDRESS", made.address), timeout=200)
    ca = provisioned.ssh(made.baker, f"cat {CA}").stdout
    provisioned.ssh(made.other, f"mkdir -p /srv/distribute; printf %s {shlex.quote(ca)} >{CA}")
    try:
        role(made, made.bake("role"))
        yield made
    finally:
        for host in provisioned.hosts:
            stop = "[ ! -e /srv/distribute/service ] || for name in registry nginx; do kill $(cat /srv/distribute/$name.pid); done"
            provisioned.ssh(host, f"{stop}; rm -rf /srv/distribute {STORE}/*; tc qdisc del dev eth0 root 2>/dev/null; true", check=False)


def written(fleet, file, entries) -> str:
    """A playbook that runs the role's entry points, each on its host."""
    include = "ansible.builtin.include_role"
    plays = [
        {
            "hosts": host,
            "gather_facts": False,
            "tasks": [{include: {"name": "gpufleet.warmstart.distribute", "tasks_from": f"{entry}.yml"}}],
        }
        for entry, host in entries.items()
    ]
    play = fleet.lab.folder / file
    play.write_text(json.dumps(plays))
    return str(play)


def role(fleet, name):
    """Both directions by the role, which also installs oras; then again, which changes nothing."""
    store = fleet.lab.folder / "golden" / name / "1"
    store.mkdir(parents=True, mode=0o700, exist_ok=True)
    fleet.lab.ssh(fleet.baker, f"echo signed >{STORE}/{name}/1/manifest.json.sig")
    for file in ("manifest.json", "manifest.json.sig"):
        (store / file).write_text(fleet.lab.ssh(fleet.baker, f"cat {STORE}/{name}/1/{file}").stdout)
    words = {"distribute_via": "registry", "distribute_location": fleet.registry, "distribute_name": name, "distribute_ca_file": CA}
    words.update(distribute_username=USER, distribute_password=PASSWORD)
    play = written(fleet, "registry.yml", {"publish": fleet.baker, "main": fleet.other})
    for changes in (True, False):
        code, output = fleet.lab.playbook(play, words, "-v")
        assert code == 0, output
        assert (len(re.findall(r"changed=0", output)) == 2) != changes, output
        assert PASSWORD not in output
    assert fleet.lab.ssh(fleet.other, f"cat {STORE}/{name}/1/manifest.json.sig").stdout == "signed\n"


def test_registry_publishes_once_and_sends_only_what_changed(fleet):
    fleet.bake("versions")
    assert fleet.publish("versions", check=True)["changed"]
    first = fleet.publish("versions")
    assert first["changed"], first
    assert first["shards"] == {"all": CHUNKS, "sent": CHUNKS}
    assert 0.6 < first["bytes_sent"] / (CHUNKS << 20) < 0.8, "zstd packs the zeros, not the rest"
    again = fleet.publish("versions")
    assert (again["changed"], again["bytes_sent"]) == (False, 0)
    fleet.bake("versions", "2", changed=2)
    second = fleet.publish("versions", "2")
    assert second["shards"] == {"all": CHUNKS, "sent": 2}, second

    assert fleet.fetch("versions", check=True)["changed"]
    assert fleet.nothing_there("versions")
    got = fleet.fetch("versions")
    assert (got["changed"], got["bytes_received"]) == (True, first["bytes_sent"]), got
    assert fleet.same("versions")
    assert not fleet.fetch("versions")["changed"]
    got = fleet.fetch("versions", "2")
    assert got["chunks"] == {"all": CHUNKS, "resumed": 0, "reused": CHUNKS - 2, "fetched": 2}
    assert got["bytes_received"] == second["bytes_sent"]
    assert fleet.same("versions", "2")

    # Broken later: only what is wrong is fetched.
    fleet.lab.ssh(fleet.other, f"printf X | dd of={STORE}/versions/1/checkpoint.tar bs=1 seek=99 conv=notrunc")
    got = fleet.fetch("versions")
    assert got["chunks"] == {"all": CHUNKS, "resumed": 0, "reused": CHUNKS - 1, "fetched": 1}, got
    assert fleet.same("versions")


def test_a_version_never_changes(fleet):
    fleet.bake("fixed", count=2)
    fleet.publish("fixed")
    fleet.fetch("fixed")
    fleet.lab.ssh(fleet.baker, f"rm -r {STORE}/fixed/1")
    fleet.lab.ssh(fleet.baker, f"python3 -c {shlex.quote(BAKE)} fixed 2 2 2; mv {STORE}/fixed/2 {STORE}/fixed/1")
    assert fleet.publish("fixed")["reason"] == "version_published"
    assert fleet.fetch("fixed")["reason"] == "archive_exists"


def test_registry_that_dies_in_the_middle(fleet):
    fleet.bake("dies")
    log = "/srv/distribute/registry.log"
    fleet.kill_after("registry", log, "'PUT /v2/golden/dies/blobs.* 201'", 3, then="sleep 1; /srv/distribute/service registry")
    result = fleet.publish("dies", parallel=2)
    assert result["changed"], "it waits for a registry that comes back soon"

    fleet.kill_after("registry", log, "'GET /v2/golden/dies/blobs.* 200'", 4)
    cut = fleet.fetch("dies", parallel=2)
    assert cut["reason"] == "registry_unreachable", cut
    assert cut["bytes_received"] > 0
    assert fleet.nothing_there("dies")
    fleet.serve("registry")
    rest = fleet.fetch("dies")
    assert rest["chunks"]["resumed"] >= 2, rest
    assert rest["chunks"]["resumed"] + rest["chunks"]["fetched"] == CHUNKS
    assert rest["bytes_received"] + cut["bytes_received"] == result["bytes_compressed"], "no shard came twice"
    assert fleet.same("dies")


def test_flipped_bytes_in_the_registry(fleet):
    fleet.bake("flipped", count=2)
    fleet.lab.ssh(fleet.baker, "touch /srv/distribute/mark")
    fleet.publish("flipped")
    blob = "find /srv/distribute/registry/docker/registry/v2/blobs -name data -size +600k -newer /srv/distribute/mark"
    fleet.lab.ssh(fleet.baker, f"printf XXXX | dd of=$({blob}) bs=1 seek=5000 conv=notrunc")
    got = fleet.fetch("flipped")
    assert got["reason"] == "digest_mismatch", got
    assert fleet.nothing_there("flipped")


@pytest.mark.parametrize("via", ["registry", "http"])
def test_credentials_and_certificates(fleet, via):
    fleet.bake(f"access-{via}", count=2)
    names = (f"access-{via}", "1", via)
    assert fleet.publish(*names, password="wrong-Secret")["reason"] == "registry_auth"
    assert fleet.publish(*names, username=None, password=None)["reason"] == "registry_auth"
    assert fleet.publish(*names, ca_file=None)["reason"] == "registry_tls"
    sampler = (
        f"setsid sh -c 'for i in $(seq 300); do cat /proc/[0-9]*/cmdline; sleep 0.01; done >/srv/distribute/lines 2>/dev/null' & cd {STORE}"
    )
    fleet.lab.ssh(fleet.baker, f"({sampler}) >/dev/null 2>&1 </dev/null")
    result = fleet.publish(*names)
    assert result["changed"], result
    assert PASSWORD not in json.dumps({key: value for key, value in result.items() if key != "invocation"})
    lines = fleet.lab.ssh(fleet.baker, "cat /srv/distribute/lines | tr '\\0' ' '").stdout
    assert via == "http" or "oras" in lines
    assert PASSWORD not in lines
    assert base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode() not in lines
    assert fleet.lab.ssh(fleet.baker, "ls /run/gpufleet-warmstart | grep registry-", check=False).stdout == ""
    assert fleet.fetch(*names, location=f"{fleet.registry if via == 'registry' else fleet.web}/nosuch")["reason"] == "registry_missing"


def test_auth_file(fleet):
    fleet.bake("file", count=2)
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    content = json.dumps({"auths": {f"{fleet.address}:5000": {"auth": auth}}})
    fleet.lab.ssh(fleet.baker, f"umask 077; printf %s {shlex.quote(content)} >/srv/distribute/auth.json")
    assert fleet.publish("file", username=None, password=None, auth_file="/srv/distribute/auth.json")["changed"]


def test_full_disk_gives_back_what_it_took(fleet):
    fleet.bake("full")
    fleet.publish("full")
    fleet.lab.ssh(fleet.other, "mkdir -p /mnt/tiny && mount -t tmpfs -o size=4m tmpfs /mnt/tiny")
    try:
        got = fleet.fetch("full", folder="/mnt/tiny/golden/full/1")
        assert (got["reason"], got["bytes_received"]) == ("disk_full", 0), got
        # Room for the archive, but not for the shards on their way.
        fleet.lab.ssh(fleet.other, f"mount -o remount,size={(CHUNKS - 1 << 20) + 200000} /mnt/tiny")
        got = fleet.fetch("full", folder="/mnt/tiny/golden/full/1")
        assert got["reason"] == "disk_full", got
        assert fleet.lab.ssh(fleet.other, "find /mnt/tiny -type f").stdout == ""
    finally:
        fleet.lab.ssh(fleet.other, "umount /mnt/tiny")


def test_http_goes_on_within_a_shard(fleet):
    fleet.bake("web", count=4)
    first = fleet.publish("web", via="http", parallel=2)
    assert first["shards"] == {"all": 4, "sent": 4}, first
    # A slow link, so that the server can be killed in the middle of a shard; this kernel may have no netem, but tbf.
    fleet.lab.ssh(fleet.baker, "tc qdisc add dev eth0 root tbf rate 4mbit burst 32k latency 50ms")
    try:
        fleet.kill_after("nginx", "/srv/distribute/nginx.access", "'web/1.json.* 200'", 1, before="sleep 0.9")
        cut = fleet.fetch("web", via="http", parallel=1)
        assert cut["reason"] == "registry_unreachable", cut
        kept = fleet.lab.ssh(fleet.other, f"find {STORE}/web/.1.partial/shards -type f -printf '%s\\n'").stdout.split()
        assert kept
        fleet.serve("nginx")
        fleet.lab.ssh(fleet.baker, "tc qdisc del dev eth0 root")
    finally:
        fleet.lab.ssh(fleet.baker, "tc qdisc del dev eth0 root 2>/dev/null; true")
    rest = fleet.fetch("web", via="http")
    assert rest["changed"], rest
    fetched = first["bytes_sent"] * rest["chunks"]["fetched"] / 4
    assert rest["bytes_received"] < fetched - 0.9 * int(kept[0]) + 2000
    assert " 206 " in fleet.lab.ssh(fleet.baker, "tail -n 8 /srv/distribute/nginx.access").stdout
    assert fleet.same("web")


def test_http_from_a_folder(fleet):
    fleet.bake("share", count=2)
    sent = fleet.publish("share", via="http", location="file:///srv/distribute/www/golden/share")
    assert sent["shards"] == {"all": 2, "sent": 2}, sent
    assert fleet.fetch("share", via="http")["changed"]
    assert fleet.same("share")


def test_two_runs_at_once(fleet):
    fleet.bake("busy", count=2)
    fleet.publish("busy")
    lock = f"mkdir -p {STORE}/busy/.1.partial; setsid flock {STORE}/busy/.1.partial sleep 3 >/dev/null 2>&1 </dev/null & sleep 0.3"
    fleet.lab.ssh(fleet.other, lock)
    assert fleet.fetch("busy")["reason"] == "transfer_busy"


def test_copy_is_verified_too(fleet):
    # The controller bakes here: the same bytes as everywhere, from the same seeds.
    store = fleet.lab.folder / "golden"
    run(sys.executable, "-c", BAKE.replace(STORE, str(store)), fleet.bake("copied", count=3), "1", 0, 3)
    archive = store / "copied" / "1" / "checkpoint.tar"
    good = archive.read_bytes()
    archive.write_bytes(good[:99] + b"X" + good[100:])
    words = {"distribute_name": "copied", "distribute_controller_store": str(store)}
    play = written(fleet, "copy.yml", {"main": fleet.other})
    code, output = fleet.lab.playbook(play, words)
    assert code != 0
    assert "digest_mismatch" in output, output
    assert fleet.nothing_there("copied")
    archive.write_bytes(good)
    code, output = fleet.lab.playbook(play, words)
    assert code == 0, output
    assert fleet.same("copied")
