"""_findings.py with config.dump and spec.dump of a real archive, and with what an attacker would put into them."""

from __future__ import annotations

import copy
import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from ansible_collections.gpufleet.warmstart.plugins.module_utils import _findings
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import REASONS, WarmstartError

CAPTURE = Path(__file__).parents[2] / "captures" / "podman_checkpoint_gzip.archive"
MOUNT = {"code": "mount", "item": "/hand:/hand:ro"}


@pytest.fixture(scope="module")
def pair() -> tuple[dict, dict]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(CAPTURE.read_bytes()))) as archive:
        return tuple(json.load(archive.extractfile(name)) for name in ("config.dump", "spec.dump"))


@pytest.fixture
def dumps(pair) -> tuple[dict, dict]:
    return copy.deepcopy(pair)


def codes(config: dict, spec: dict, deleted=(), names=()) -> list[tuple[str, str]]:
    found = _findings.find(config, spec, list(deleted), list(names))
    assert MOUNT in found
    return [(item["code"], item["item"]) for item in found if item != MOUNT]


def test_an_ordinary_container_has_its_mount_only(dumps):
    assert codes(*dumps, names=["checkpoint/pages-1.img", "spec.dump"]) == []


def test_hooks(dumps):
    config, spec = dumps
    spec["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "id"]}]}
    config["exitCommand"] = ["/bin/sh", "-c", "id"]
    assert codes(config, spec) == [("hook", "createRuntime: /bin/sh"), ("hook", "exitCommand: /bin/sh -c id")]


@pytest.mark.parametrize("where", ["spec", "config"])
def test_criu_options_of_its_own(dumps, where):
    config, spec = dumps
    (spec if where == "spec" else config["spec"]).setdefault("annotations", {})["org.criu.config"] = "/tmp/evil.conf"
    assert codes(config, spec) == [("criu_config", "org.criu.config=/tmp/evil.conf")]


def test_privileges(dumps):
    config, spec = dumps
    config["privileged"] = True
    spec["process"]["capabilities"]["bounding"].append("CAP_SYS_ADMIN")
    assert codes(config, spec) == [("privileged", "CAP_SYS_ADMIN"), ("privileged", "--privileged")]


@pytest.mark.parametrize(
    ("mount", "item"),
    [
        ({"type": "bind", "source": "/", "destination": "/host"}, "/:/host:rw"),
        ({"type": "bind", "source": "/etc", "destination": "/e", "options": ["ro"]}, "/etc:/e:ro"),
        ({"type": "tmpfs", "source": "/etc", "destination": "/e", "options": ["rbind"]}, "/etc:/e:rw"),  # OCI: an option makes it a bind
        ({"type": "ext4", "source": "/dev/sda1", "destination": "/d"}, "/dev/sda1:/d:rw"),
        (
            {"type": "bind", "source": "/x-containers/ID/userdata/../../etc", "destination": "/e"},
            "/x-containers/ID/userdata/../../etc:/e:rw",
        ),
        ({"type": "bind", "source": "/x-containers/ID/userdata/..", "destination": "/e"}, "/x-containers/ID/userdata/..:/e:rw"),
        ({"type": "bind", "source": "/x/userdata/secret", "destination": "/e"}, "/x/userdata/secret:/e:rw"),
    ],
)
def test_mounts_of_the_host(dumps, mount, item):
    config, spec = dumps
    spec["mounts"].append({**mount, "source": mount["source"].replace("ID", config["id"])})
    assert codes(config, spec) == [("mount", item.replace("ID", config["id"]))]


def test_paths_that_leave_the_container(dumps):
    assert codes(*dumps, deleted=["/../../etc/passwd", "/tmp/x"], names=["checkpoint/../../x", "/etc/x", "a..b"]) == [
        *(("path", name) for name in ("checkpoint/../../x", "/etc/x", "/../../etc/passwd")),
    ]


def refused(finding: tuple[str, str], *, recorded=(), signed=False, declared=None, expect=()) -> bool:
    def items(pairs):
        return [{"code": code, "item": item} for code, item in pairs]

    try:
        _findings.require_expected(items([finding]), {"container": {"findings": items(recorded)}}, signed, declared, list(expect))
    except WarmstartError as error:
        return error.reason.code == f"unexpected_{finding[0]}"
    return False


HOOK, CDI = ("hook", "createRuntime: /bin/sh"), ("hook", "createContainer: /usr/bin/nvidia-cdi-hook")
PATH, CONFIG, ADMIN, ETC = ("path", "../x"), ("criu_config", "org.criu.config=/x"), ("privileged", "CAP_SYS_ADMIN"), ("mount", "/etc:/e:rw")


@pytest.mark.parametrize("finding", [HOOK, CDI, PATH, CONFIG, ADMIN, ETC])
def test_nothing_is_expected_by_itself(finding):
    assert refused(finding)
    assert refused(finding, signed=True)
    assert refused(finding, recorded=[(finding[0], "another")], signed=True)
    assert refused(finding, expect=["another"])


@pytest.mark.parametrize(
    ("finding", "unsigned", "signed", "option"),
    [
        (HOOK, True, False, False),
        (CDI, False, False, False),
        (PATH, True, False, True),
        (CONFIG, True, False, False),
        (ADMIN, False, False, False),
    ],
)
def test_what_a_manifest_and_the_option_can_vouch_for(finding, unsigned, signed, option):
    assert refused(finding, recorded=[finding]) == unsigned
    assert refused(finding, recorded=[finding], signed=True) == (signed or finding is PATH)
    assert refused(finding, expect=[finding[0]]) == option


def test_a_hook_that_only_looks_like_nvidias():
    fake = ("hook", "createContainer: /var/lib/x/usr/bin/nvidia-cdi-hook")
    assert refused(fake, recorded=[fake])


@pytest.mark.parametrize(
    ("volume", "finding", "wrong"),
    [
        ("/srv/models:/models:ro", "/srv/models:/models:ro", False),
        ("/srv/models:/models", "/srv/models:/models:ro", False),
        ("/srv/models:/models:ro,bind", "/srv/models:/models:rw", True),
        ("/srv/models:/models", "/etc:/models:rw", True),
        ("/srv/models:/models", "/srv/models:/usr:rw", True),
        ("cache:/cache", "/var/lib/containers/storage/volumes/cache/_data:/cache:rw", False),
        ("cache:/cache", "/etc/cache:/cache:rw", True),
    ],
)
def test_declared_volumes_are_expected(volume, finding, wrong):
    assert refused(("mount", finding), declared={"volumes": [volume]}) == wrong


@pytest.mark.parametrize(
    ("args", "finding", "wrong"),
    [
        (["--privileged"], "--privileged", False),
        (["--privileged"], "CAP_SYS_ADMIN", False),
        (["--cap-add", "SYS_ADMIN"], "CAP_SYS_ADMIN", False),
        (["--cap-add=all"], "CAP_BPF", False),
        (["--cap-add=all"], "--privileged", True),
        (["--cap-add", "BPF"], "CAP_SYS_ADMIN", True),
        ([], "CAP_BPF", True),
    ],
)
def test_declared_privileges_are_expected(args, finding, wrong):
    assert refused(("privileged", finding), declared={"args": args}) == wrong


def test_every_finding_has_a_reason():
    assert {f"unexpected_{code}" for code in (*_findings.EXPECTABLE, "path")} <= set(REASONS)
