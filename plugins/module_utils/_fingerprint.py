# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fingerprint of a host, its compatibility class, and how a golden checkpoint's manifest compares with it.

Only reads: podman, CRIU, the driver and /proc. FACTS says what is compared and why it matters; hosts that agree in CLASS_FACTS can
restore each other's golden checkpoints, so that one is baked for each class.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import last_lines
from ansible_collections.gpufleet.warmstart.plugins.module_utils._criu import Criu
from ansible_collections.gpufleet.warmstart.plugins.module_utils._criu_check import numbers
from ansible_collections.gpufleet.warmstart.plugins.module_utils._gpu import branch, capabilities, gpu_facts, gpu_map
from ansible_collections.gpufleet.warmstart.plugins.module_utils._podman import Podman
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError


@dataclass(frozen=True)
class Fact:
    """A fact that is compared: the worst level that a difference has, why it matters, and who says so."""

    level: str
    why: str
    source: str


FACTS = {
    "architecture": Fact("fatal", "a checkpoint holds machine code and registers of one architecture", "CRIU: images are per architecture"),
    "cpu": Fact("fatal", "the processes may use instructions and a register area (xsave) that this CPU lacks", "criu cpuinfo check"),
    "kernel": Fact(
        "fatal", "an older kernel lacks what the processes use; a newer one has broken restores", "field notes; CRIU release notes"
    ),
    "criu": Fact("fatal", "an older CRIU cannot read images of a newer one", "CRIU: images are compatible backwards only"),
    "podman": Fact("warning", "podman reads archives of other versions, but nobody promises it", "podman-container-restore(1)"),
    "runtime": Fact("fatal", "podman restores with the runtime that took the checkpoint, and only with that", "podman: restore --import"),
    "runtime_version": Fact("warning", "the runtime's own state is in the checkpoint", "crun and runc release notes"),
    "cgroups": Fact("fatal", "CRIU restores into the same version of cgroups only", "field notes: v1 cpusets fail"),
    "lsm": Fact("fatal", "CRIU refuses processes with labels of another security module", "CRIU lsm.c: mismatched lsm types"),
    "gpu": Fact("fatal", "the driver brings a process back on as many GPUs of the same chip only", "cuda.h 13.0, CUcheckpointGpuPair"),
    "driver": Fact("fatal", "the driver's libraries are mapped into the processes, by their version", "NVIDIA/cuda-checkpoint#21"),
    "image": Fact("fatal", "the checkpoint holds changes to one image, by its ID", "podman: restore --import"),
    "mounts": Fact("fatal", "what the container mounts must be here, with the same content", "CRIU: external mounts"),
}
# With the chip, number and memory of the GPUs, these make the class.
CLASS_FACTS = ("architecture", "cgroups", "lsm", "runtime", "criu", "driver")
# Where an engine tells its version: path and key. A server of profile `openai` may be anything, so it is not asked.
ENGINE_VERSIONS = {"vllm": ("/version", "version"), "sglang": ("/get_server_info", "version"), "llama_cpp": ("/props", "build_info")}


def host_facts(podman: Podman, criu: Criu) -> dict:
    """What the manifest keeps of the host under `host`; empty texts where something is not installed."""
    facts = podman.info()
    try:
        version, image = criu.version(), cpu_image(criu)
    except WarmstartError:
        version, image = "", ""
    gpus = gpu_facts()
    return {
        **facts,
        "criu": version,
        "lsm": security_module(),
        "cpu": {**cpu_flags(Path("/proc/cpuinfo").read_text()), "criu": image},
        "driver": gpus["driver"],
        "gpus": [{key: gpu[key] for key in ("name", "uuid", "compute_capability", "memory_total")} for gpu in gpus["gpus"]],
    }


def cpu_image(criu: Criu) -> str:
    """The file that `criu cpuinfo dump` writes, in base64; empty where it writes none (it knows x86 and POWER)."""
    with tempfile.TemporaryDirectory(prefix="warmstart-cpu-") as folder:
        done = criu.runner.run(criu.path, "cpuinfo", "dump", "--images-dir", folder, check=False)
        image = Path(folder, "cpuinfo.img")
        return base64.b64encode(image.read_bytes()).decode() if done.rc == 0 and image.exists() else ""


def cpu_flags(text: str) -> dict:
    """vendor, model and flags from /proc/cpuinfo; the ARM names are others."""
    lines = dict(re.findall(r"^([^\t:]+)\s*: (.*)$", text.split("\n\n")[0], re.MULTILINE))
    flags = lines.get("flags") or lines.get("Features") or ""
    vendor = lines.get("vendor_id") or lines.get("CPU implementer") or ""
    return {"vendor": vendor, "model": lines.get("model name") or lines.get("CPU part") or "", "flags": " ".join(sorted(flags.split()))}


def security_module() -> str:
    """What CRIU calls the host's LSM: apparmor, selinux or none."""
    if Path("/sys/fs/selinux/enforce").exists():
        return "selinux"
    return "apparmor" if Path("/sys/kernel/security/apparmor").is_dir() else "none"


def class_of(host: dict) -> str:
    """The compatibility class, such as h100x1-580.159.04-k6.18-criu4.2.1-0a1b2c3d; without a GPU cpu-k6.18-..."""
    names = [chip(gpu["name"]) for gpu in host["gpus"]]
    gpus = "+".join(f"{name}x{names.count(name)}" for name in dict.fromkeys(names))
    what = f"{gpus}-{host['driver']}" if gpus else "cpu"
    kernel = minor(host["kernel"])
    agreed = {
        **{key: host[key] for key in CLASS_FACTS},
        "kernel": kernel,
        "cpu": host["cpu"]["criu"] or [host["cpu"]["vendor"], host["cpu"]["flags"]],
        "gpus": sorted([gpu["name"], gpu["compute_capability"], gpu["memory_total"]] for gpu in host["gpus"]),
    }
    digest = hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()[:8]
    return f"{what}-k{kernel}-criu{host['criu'] or '0'}-{digest}"


def chip(name: str) -> str:
    """h100 of NVIDIA H100 80GB HBM3, rtx4090 of NVIDIA GeForce RTX 4090."""
    words = [word for word in re.split(r"[\s-]+", name.lower()) if word not in ("nvidia", "tesla", "geforce", "quadro")] or ["gpu"]
    short = "".join(words[:2]) if words[0] in ("rtx", "gtx") else words[0]
    return re.sub(r"[^a-z0-9]", "", short) or "gpu"


def minor(version: str) -> str:
    """6.18 of 6.18.44-fc."""
    return ".".join(map(str, numbers(version)[:2]))


class Comparison:
    """Compares a manifest with this host; differences() is what golden_compatibility returns."""

    def __init__(self, podman: Podman, criu: Criu, manifest: dict, here: dict):
        self.podman, self.criu, self.manifest, self.here, self.there = podman, criu, manifest, here, manifest["host"]

    def differences(self) -> list[dict]:
        """One {fact, level, here, there, reason, fix} for each of FACTS, in that order."""
        return [getattr(self, f"compare_{fact}")() for fact in FACTS]

    def row(self, fact: str, level: str, here="", there="", fix: str = "", reason: str = "") -> dict:
        """A comparison's result; where it is not ok, the reason says what differs and why that matters."""
        there = there or (self.there.get(fact) or "")
        here = here or (self.here.get(fact) or "")
        told = reason or f"{fact} {here or 'missing'} here, {there or 'none'} there: {FACTS[fact].why} ({FACTS[fact].source})."
        return {
            "fact": fact,
            "level": level,
            "here": here,
            "there": there,
            **({"reason": "", "fix": ""} if level == "ok" else {"reason": told, "fix": fix}),
        }

    def rebake(self, first: str = "") -> str:
        return f"{first}, or rebake for class {class_of(self.here)}." if first else f"Rebake for class {class_of(self.here)}."

    def same(self, fact: str, fix: str) -> dict:
        return self.row(fact, "ok" if self.here[fact] == self.there[fact] else FACTS[fact].level, fix=fix)

    def compare_architecture(self) -> dict:
        return self.same("architecture", self.rebake())

    def compare_cpu(self) -> dict:
        here, there = self.here["cpu"], self.there["cpu"]
        shown = {"here": here["model"], "there": there["model"], "fix": self.rebake()}
        if here == there:
            return self.row("cpu", "ok", **shown)
        if there["criu"] and here["criu"]:
            complaint = self.criu_refuses(there["criu"])
            return self.row("cpu", "fatal" if complaint else "ok", **shown, reason=f"criu cpuinfo check: {complaint}")
        missing = sorted(set(there["flags"].split()) - set(here["flags"].split()))
        wrong = missing or here["vendor"] != there["vendor"]
        told = (
            f"{here['vendor']} {here['model']} here, {there['vendor']} {there['model']} there; missing: {' '.join(missing) or 'nothing'}."
        )
        return self.row("cpu", "fatal" if wrong else "ok", **shown, reason=told)

    def criu_refuses(self, image: str) -> str:
        """Why `criu cpuinfo check` does not let the image of another CPU pass here; empty where it does."""
        with tempfile.TemporaryDirectory(prefix="warmstart-cpu-") as folder:
            try:
                Path(folder, "cpuinfo.img").write_bytes(base64.b64decode(image, validate=True))
            except ValueError:
                return "the manifest's host.cpu.criu is not base64"
            done = self.criu.runner.run(self.criu.path, "cpuinfo", "check", "--images-dir", folder, check=False)
        return "" if done.rc == 0 else last_lines(done.output) or f"exit status {done.rc}"

    def compare_kernel(self) -> dict:
        here, there = numbers(self.here["kernel"])[:2], numbers(self.there["kernel"])[:2]
        level = "ok" if here == there else "fatal" if here < there else "warning"
        return self.row("kernel", level, fix=self.rebake(f"Boot kernel {minor(self.there['kernel'])}"))

    def compare_criu(self) -> dict:
        here, there = numbers(self.here["criu"]), numbers(self.there["criu"])
        level = "ok" if here == there else "fatal" if here[:2] < there[:2] else "warning"
        return self.row("criu", level, fix=self.rebake(f"Install CRIU {self.there['criu']} (role prerequisites)"))

    def compare_podman(self) -> dict:
        return self.same("podman", f"Install podman {self.there['podman']} here, or try one host first.")

    def compare_runtime(self) -> dict:
        name = self.manifest["container"]["runtime"]
        found = self.here["runtime"] == name or any(Path(folder, name).exists() for folder in ("/usr/bin", "/usr/sbin", "/usr/local/bin"))
        return self.row("runtime", "ok" if found else "fatal", there=name, fix=f"Install {name} here.")

    def compare_runtime_version(self) -> dict:
        if self.here["runtime"] != self.there["runtime"]:
            return self.row("runtime_version", "ok")
        return self.same("runtime_version", f"Install {self.there['runtime']} {self.there['runtime_version']} here, or try one host first.")

    def compare_cgroups(self) -> dict:
        return self.same("cgroups", self.rebake(f"Boot with cgroups {self.there['cgroups']}"))

    def compare_lsm(self) -> dict:
        # CRIU lets labelled processes go to a host that has no labels.
        level = "ok" if self.here["lsm"] == self.there["lsm"] else "warning" if self.here["lsm"] == "none" else "fatal"
        return self.row("lsm", level, fix=self.rebake())

    @property
    def uses_gpu(self) -> bool:
        return self.manifest["gpu"]["method"] != "none"

    def compare_gpu(self) -> dict:
        here, there = self.here["gpus"], self.manifest["gpu"]["gpus"] if self.uses_gpu else []
        shown = {"here": gpus_text(here), "there": gpus_text(there), "fix": self.rebake()}
        try:
            pairs = gpu_map(there, here)
        except WarmstartError as error:
            return self.row("gpu", "fatal", **shown, reason=error.detail)
        if pairs and not capabilities(self.here["driver"])["gpu_map"]:
            told = f"Its GPUs are others ({', '.join(pairs)}), and driver {self.here['driver']} cannot restore on another GPU."
            return self.row("gpu", "fatal", **{**shown, "fix": "Install driver 580 or newer, and rebake."}, reason=told)
        return self.row("gpu", "ok", **shown)

    def compare_driver(self) -> dict:
        here, there = self.here["driver"], self.there["driver"]
        level = "fatal" if self.uses_gpu and here != there else "ok"
        return self.row("driver", level, fix=self.rebake("" if branch(here) > branch(there) else f"Install driver {there} here"))

    def compare_image(self) -> dict:
        container = self.manifest["container"]
        shown = {
            "there": f"{container['image']} {container['image_id'][:12]}",
            "fix": f"Pull {container['image']} with ID {container['image_id'][:12]}.",
        }
        done = self.podman.run("image", "inspect", "--format", "{{.Id}}", container["image"], check=False)
        if done.rc == 0:
            found = done.stdout.strip()
            return self.row(
                "image", "ok" if found == container["image_id"] else "fatal", here=f"{container['image']} {found[:12]}", **shown
            )
        local = container["image"].startswith("localhost/")
        return self.row(
            "image", "fatal" if local else "warning", **shown, reason="" if local else "It is not here: podman pulls it, which takes time."
        )

    def compare_mounts(self) -> dict:
        # podman brings named volumes along
        sources = [
            mount["source"] for mount in self.manifest["container"]["mounts"] if not re.search("/volumes/[^/]+/_data$", mount["source"])
        ]
        missing = [source for source in sources if not os.path.exists(source)]
        return self.row(
            "mounts",
            "fatal" if missing else "ok",
            here="" if missing else ", ".join(sources),
            there=", ".join(sources),
            fix=f"Make {', '.join(missing)} with the content that it has there.",
            reason=f"Missing: {', '.join(missing)}." if missing else "",
        )


def gpus_text(gpus: list[dict]) -> str:
    names = [f"{gpu['name']} {gpu['memory_total'] >> 20} MiB" for gpu in gpus]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def compatible(differences: list[dict]) -> bool:
    return all(row["level"] != "fatal" for row in differences)


def engine_version(name: str, url: str) -> str | None:
    """What the engine says of its version; None for one that does not tell."""
    path, key = ENGINE_VERSIONS.get(name, ("", ""))
    if not path or not url:
        return None
    try:
        # urllib closes the connection, which would be in the checkpoint otherwise.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url + path, timeout=2) as answer:
            told = json.load(answer).get(key)
    except (OSError, ValueError, AttributeError):
        return None
    return str(told) if told else None
