# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reasons: a stable code, one sentence and the fix for everything that fails or is refused.

Touches nothing: text in, reason out. The commands whose output is read here are run by _command.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reason:
    """Why something failed: `code` is stable, `message` is one sentence, `fix` is what to do.

    `patterns` are regular expressions over what CRIU, crun, runc or podman print; empty where only our own checks
    find this reason.
    """

    code: str
    message: str
    fix: str
    patterns: tuple[str, ...] = field(default=(), repr=False)


# In the order they are tried: the specific cause stands before the general symptom that podman prints around it.
REASONS = {
    reason.code: reason
    for reason in (
        Reason(
            "io_uring",
            "A process holds an io_uring, which CRIU cannot dump.",
            "Start the server with the seccomp profile that role prerequisites installs (it answers ENOSYS to io_uring), "
            "or set sysctl kernel.io_uring_disabled=2.",
            (r"anon_inode:\[io_uring\]", r"send_fds failed \(-22\)"),
        ),
        Reason(
            "link_remap",
            "A process holds a deleted file that still has links, such as a /dev/shm semaphore.",
            "Put link-remap into /etc/criu/crun.conf and /etc/criu/runc.conf; role prerequisites writes it.",
            (r"Can't create link remap for", r"can't dump (?:path|file).*link.remap"),
        ),
        Reason(
            "ghost_limit",
            "A deleted file that is still open is larger than CRIU's ghost-limit (1 MiB by default).",
            "Raise it: criu_config: {ghost-limit: 1G}, or let role prerequisites write it for the host.",
            (r"Can't dump ghost file", r"ghost file .* increase limit"),
        ),
        Reason(
            "external_socket",
            "A process is connected to the Unix socket of a process outside its container.",
            "Close that connection before the checkpoint, such as that of a mounted socket.",
            (r"External socket is used",),
        ),
        Reason(
            "iptables_missing",
            "CRIU could not lock the container's network with iptables.",
            "Set network-lock nftables in CRIU's configuration (role prerequisites does), or install iptables.",
            (r"Iptables configuration failed", r"iptables-restore.*(?:failed|not found)", r"exec.*iptables.*[Nn]o such file"),
        ),
        Reason(
            "so_passcred_kernel",
            "This CRIU is too old for this kernel: since Linux 6.16 it fails on SO_PASSCRED of every TCP socket.",
            "Install CRIU 4.2 or newer.",
            (r"Can't get 1:16 opt",),
        ),
        Reason(
            "vdso_kernel",
            "This CRIU is too old for this kernel: it does not know the layout of its vDSO.",
            "Install CRIU 4.1 or newer.",
            (r"vdso: Unexpected rt vDSO area bounds",),
        ),
        Reason(
            "mount_kernel",
            "This CRIU is too old for this kernel: it cannot make the restored mounts slaves.",
            "Install CRIU 4.1.1 or newer.",
            (r"mnt-v2: Failed to make mount \d+ slave",),
        ),
        Reason(
            "rlimit_nofile",
            "CRIU cannot raise RLIMIT_NOFILE to fs.nr_open: root lacks CAP_SYS_RESOURCE on this host.",
            "Lower the ceiling: sysctl -w fs.nr_open=$(ulimit -Hn); role prerequisites does it where it is needed.",
            (r"Can't setup RLIMIT_NOFILE",),
        ),
        Reason(
            "tcp_established",
            "The server has open TCP connections, and neither tcp_established nor tcp_close was asked for.",
            "Checkpoint before clients connect, or set tcp_established: true.",
            (r"Connected TCP socket, consider using", r"In-flight connection", r"tcp-established option"),
        ),
        Reason(
            "restore_cap",
            "podman ends the runtime's part of a restore after 240 s.",
            "Read the checkpoint from faster storage: restore in place, or keep the archive on NVMe or tmpfs.",
            (r"container creation timeout",),  # libpod/oci_conmon_common.go, ContainerCreateTimeout
        ),
        Reason(
            "timeout",
            "CRIU gave up collecting or restoring the processes within its timeout (10 s by default).",
            "Set timeout 300 in CRIU's configuration; role prerequisites writes it.",
            (r"Timeout reached", r"Timer expired|Got (?:a )?timeout"),
        ),
        Reason(
            "disk_full",
            "There is not enough free space for the checkpoint.",
            "Free space or name a larger filesystem; an export needs the checkpoint's size twice.",
            (r"[Nn]o space left on device", r"ENOSPC"),
        ),
        Reason(
            "runtime_without_criu",
            "The container's runtime was built without checkpoint support.",
            "Use runc, or crun with libcriu (Debian: libcriu2 beside crun 1.26 or newer).",
            (
                r"configured without CRIU support",
                r"(?:could not|cannot|can't) load.*libcriu",
                r"libcriu\.so[^ ]*: cannot open",
                r"runtime .* does not support checkpoint",
                r"checkpoint/restore (?:is )?not supported",
            ),
        ),
        Reason(
            "criu_missing",
            "criu was not found on this host.",
            "Install it (role prerequisites does), or set criu_path.",
            (
                r'"criu": executable file not found',
                r"criu: (?:command )?not found",
                r"failed to (?:run|exec).*criu",
                r"CRIU.*not (?:found|installed)",
            ),
        ),
        Reason(
            "criu_too_old",
            "This CRIU is older than podman or this kernel needs.",
            "Install CRIU 4.2 or newer.",
            (r"checkpoint/restore requires at least CRIU", r"CRIU version \S+ (?:is )?(?:not supported|too old)"),
        ),
        Reason(
            "not_root",
            "Checkpoint and restore need root.",
            "Set become: true on the task or play.",
            (r"checkpoint/restore.*root", r"(?:checkpointing|restoring) a container requires root"),
        ),
        Reason(
            "name_in_use",
            "Another container already has this name.",
            "Choose another name, or remove that container first.",
            (r"container name .* is already in use", r"that (?:ID|name) is already in use"),
        ),
        Reason(
            "port_in_use",
            "Another process listens on the server's port.",
            "Stop that process, or publish another port.",
            (r"[Aa]ddress already in use", r"port is already allocated", r"Can't bind inet socket"),
        ),
        Reason(
            "image_missing",
            "The container's image is not on this host with the same ID.",
            "Pull that image by digest before the restore; a moved tag has another ID.",
            (r"image not known", r"no such image", r"unable to copy from source docker://"),
        ),
        Reason(
            "mount_missing",
            "A folder or file that the container mounts is not on this host.",
            "Create the missing path with the same content as on the host of the checkpoint.",
            (
                r"statfs \S+: no such file or directory",
                r"mount (?:source|point)[^\n]* (?:does not exist|[Nn]o such file)",
                r"stat `[^`']+['`]: No such file",
                r"Unable to restore, the following mount points do not exist",
            ),
        ),
        Reason(
            "mount_below",
            "A filesystem is mounted below one of the container's volumes, and CRIU was not told of it.",
            "Mount without what lies below, as in /usr:/usr:ro,bind, and name the inner mount as a volume of its own if it is needed.",
            (r"mnt: FS mnt \S+ .*unsupported id",),
        ),
        Reason(
            "archive_corrupt",
            "The checkpoint archive is damaged or is not a checkpoint archive.",
            "Copy it again and compare its digests with the manifest, or take a new golden checkpoint.",
            (
                r"unexpected EOF",
                r"archive/tar: (?:invalid|missed|write)",
                r"invalid tar header",
                r"(?:gzip|zstd)[^\n]*(?:invalid|corrupt|checksum|mismatch)",
                r"not a (?:valid )?checkpoint archive",
                r"Unknown compression|magic number mismatch",
            ),
        ),
        Reason(
            "container_missing",
            "There is no container with this name on this host.",
            "Check the name with: podman ps --all.",
            (r"no container with (?:name or ID|ID or name)", r"no such container"),
        ),
        Reason(
            "container_not_running",
            "The container is not running, so there is nothing to checkpoint.",
            "Start it, or restore it if it was checkpointed in place.",
            (r"container .* is not running", r"is not running, cannot checkpoint"),
        ),
        # Found by our own checks, never in another program's output:
        Reason("archive_missing", "The checkpoint archive does not exist.", "Check the path, or take the golden checkpoint first."),
        Reason(
            "manifest_invalid",
            "The checkpoint's manifest.json is damaged or is not a manifest.",
            "Copy the golden checkpoint again, or bake a new version.",
        ),
        Reason(
            "manifest_schema",
            "The checkpoint's manifest.json was written by another version of this collection.",
            "Use one version of the collection on every controller; an older golden checkpoint must be baked again.",
        ),
        Reason(
            "signature_missing",
            "The golden checkpoint is not signed, and only signed ones are allowed here.",
            "Sign it (warmstart_signing_key), and bring manifest.json.sig along with manifest.json.",
        ),
        Reason(
            "signature_unknown",
            "The golden checkpoint is signed by a key that is not allowed.",
            "Find out who signed it; add that key to warmstart_allowed_signers only if you trust it.",
        ),
        Reason(
            "signature_invalid",
            "The signature does not fit the manifest: it was changed after it was signed, or the signature is damaged.",
            "Do not use it. Copy the golden checkpoint again from where it was signed, or bake a new version.",
        ),
        Reason(
            "unexpected_hook",
            "The checkpoint would run a program on the host when it is restored.",
            "Do not restore it unless you know that hook; then set expect: [hook].",
        ),
        Reason(
            "unexpected_criu_config",
            "The checkpoint brings CRIU options of its own (annotation org.criu.config).",
            "Do not restore it unless you know those options; then set expect: [criu_config].",
        ),
        Reason(
            "unexpected_mount",
            "The checkpoint mounts something of the host that neither its manifest nor the declared server names.",
            "Restore it with its manifest, declare that volume, or set expect: [mount].",
        ),
        Reason(
            "unexpected_privileged",
            "The checkpoint's container has privileges that neither its manifest nor the declared server names.",
            "Restore it with its manifest, declare the privileges, or set expect: [privileged].",
        ),
        Reason(
            "unexpected_path",
            "The checkpoint names files outside its own folders.",
            "Do not restore it; take a new golden checkpoint.",
        ),
        Reason(
            "oracle_mismatch",
            "The restored server answers another way than before it was frozen.",
            "Bake a new version; set check_oracle to false for an engine whose greedy answers vary.",
        ),
        Reason(
            "locked",
            "Another rollout works on this host.",
            "Wait until it is done. If its controller is gone for good, remove the lock's file.",
        ),
        Reason(
            "incompatible",
            "No golden checkpoint here fits this host.",
            "Bake one on a host of this compatibility class: playbook gpufleet.warmstart.golden.",
        ),
        Reason("archive_exists", "The folder already holds another checkpoint.", "Give each archive a folder of its own."),
        Reason(
            "checkpoint_missing",
            "The container has no checkpoint to restore in place.",
            "Take one with podman_checkpoint, or restore from an archive.",
        ),
        Reason("bad_input", "An argument is wrong, or two contradict each other.", "Correct the arguments."),
        Reason("podman_missing", "podman was not found on this host.", "Install it; role prerequisites does."),
        Reason(
            "dependency_missing",
            "Something that the module needs is missing on this host.",
            "Install python3-httpx, python3-jmespath and zstd; role prerequisites does.",
        ),
        Reason(
            "criu_check_failed",
            "criu check found a kernel feature missing.",
            "Read the output of criu check; most hosts need a newer kernel or CRIU.",
        ),
        Reason(
            "feature_missing",
            "criu check does not find a feature that was asked for.",
            "Use a kernel and CRIU that have it, or do not ask for it.",
        ),
        Reason("refused", "Nothing listens at the server's address.", "Check that the server runs and that host and port are right."),
        Reason(
            "unreachable", "The server's host cannot be reached.", "Check the URL's host name, the network and, for https, the certificate."
        ),
        Reason(
            "timed_out",
            "The server was not ready in time.",
            "Read the server's log (the file named above, or podman logs NAME), or allow more time (timeout).",
        ),
        Reason("unhealthy", "The server answers, but not as a healthy one does.", "Read the server's log (podman logs NAME)."),
        Reason(
            "request_failed",
            "The server answered a request with an error.",
            "Read its answer; check api, model, prompt, max_tokens and headers.",
        ),
        Reason(
            "condition_false",
            "The server is healthy, but the condition on its answer is not met.",
            "Check the jmespath condition against the answer shown.",
        ),
        Reason("wrong_model", "The server does not serve the model that was asked for.", "Name one of the models it lists."),
        Reason(
            "malformed_stream",
            "The server's stream is not a series of OpenAI-style events.",
            "Check the URL and the API (completions or chat).",
        ),
        Reason("no_tokens", "The server ended its answer without a single token.", "Check the prompt, the model and max_tokens."),
        Reason(
            "server_exited",
            "The container ended before the server became healthy.",
            "Read the server's log (the file named above, or podman logs NAME).",
        ),
        Reason(
            "engine_refused",
            "The engine did not sleep or wake when asked.",
            "Check that its URL is right and that it was started with its profile (engine).",
        ),
        # GPU (_gpu.py, _cuda.py):
        Reason(
            "no_gpu",
            "This host has no NVIDIA GPU, or its driver is not loaded.",
            "Install the driver and check that nvidia-smi lists the GPU.",
        ),
        Reason(
            "driver_too_old",
            "The NVIDIA driver is too old for this.",
            "Install driver 580 or newer (570 for suspend and checkpoint without a GPU map).",
        ),
        Reason(
            "driver_mismatch",
            "The loaded NVIDIA kernel module and the driver's libraries differ in version.",
            "Reboot, or reload the kernel module.",
        ),
        Reason(
            "driver_known_bad",
            "This NVIDIA driver has a known fault in checkpointing.",
            "Install another driver version, or name gpu_method yourself.",
        ),
        Reason(
            "cuda_too_new",
            "The image's CUDA is newer than this host's NVIDIA driver runs.",
            "Use an image with an older CUDA, or install a newer driver.",
        ),
        Reason(
            "cuda_library_missing",
            "The driver's library libcuda.so.1 was not found.",
            "Install the driver's compute libraries (Debian: libcuda1).",
        ),
        Reason(
            "cuda_symbols_missing",
            "libcuda.so.1 lacks the checkpoint functions.",
            "Use the library of driver 570 or newer, not an older one beside it.",
        ),
        Reason(
            "mig_on",
            "A GPU is split with MIG, which CUDA checkpointing does not support.",
            "Turn MIG off for this GPU, or leave the GPU out.",
        ),
        Reason("mps_on", "An MPS daemon runs, which CUDA checkpointing does not support.", "Stop it: echo quit | nvidia-cuda-mps-control."),
        Reason(
            "gpu_method_missing",
            "The GPU method asked for is not available on this host.",
            "Set gpu_method to auto, or install what it needs.",
        ),
        Reason("gpu_memory", "The GPU has too little free memory to resume on.", "Stop or suspend what uses it, then resume again."),
        Reason(
            "gpu_mismatch", "This host's GPUs are not those of the checkpoint.", "Restore on a host with as many GPUs of the same chip."
        ),
        Reason("gpu_busy", "Another run is suspending or resuming this process.", "Wait until it is done, then try again."),
        Reason(
            "lock_timeout",
            "CUDA work was still running when the lock timed out; the server goes on.",
            "Drain requests first, or raise lock_timeout.",
        ),
        Reason(
            "cuda_unsupported", "The driver cannot checkpoint this process.", "Avoid CUDA IPC and managed memory, or use a newer driver."
        ),
        Reason(
            "cuda_failed_state",
            "The process's CUDA state is lost; the driver cannot bring it back.",
            "Remove the container and start or restore it again.",
        ),
        Reason(
            "cuda_call_failed",
            "A call of the CUDA driver failed.",
            "Look the CUDA error up in the driver's documentation; the kernel log may say more.",
        ),
        Reason("process_died", "A process of the container ended during the call.", "Read the server's log (podman logs NAME)."),
        Reason(
            "no_cuda_process",
            "No process of the container uses CUDA.",
            "Wait until the server has loaded its model, and check that it runs on the GPU.",
        ),
        Reason(
            "device_left_open",
            "A suspended process still holds an NVIDIA device, which CRIU cannot dump.",
            "Stop what uses NVML or was forked after CUDA began.",
        ),
        Reason(
            "container_paused",
            "The container is paused, so its processes cannot answer the driver.",
            "Unpause it first: podman unpause NAME.",
        ),
        Reason(
            "self_test_failed",
            "The round trip of a small CUDA process failed.",
            "Read the detail; do not rely on GPU checkpoints on this host before it passes.",
        ),
        # Distribution (_transport.py, _distribute.py); "registry" means file servers, too:
        Reason(
            "registry_unreachable",
            "The registry or file server does not answer, or broke off.",
            "Check its address, that it runs, and the network; then run again, which goes on where this run stopped.",
        ),
        Reason("registry_auth", "The registry or file server refuses these credentials.", "Check username and password, or auth_file."),
        Reason(
            "registry_tls",
            "The registry's or file server's certificate is not trusted, or it does not speak TLS.",
            "Name its CA's certificate with ca_file; a registry without TLS needs http:// before its name.",
        ),
        Reason(
            "registry_missing",
            "What was asked for is not in the registry or on the file server.",
            "Check location and tag, and publish this version from the host that baked it.",
        ),
        Reason("registry_refused", "The file server refuses the request.", "Check the URL, and for publishing that the server takes PUT."),
        Reason("registry_full", "The file server is out of space.", "Free space there."),
        Reason(
            "digest_mismatch",
            "What was fetched is not what the manifest says.",
            "Nothing of it was put in place. Check the registry's storage; delete the damaged blob there and publish again.",
        ),
        Reason(
            "version_published",
            "Another golden checkpoint is published under this tag.",
            "A golden checkpoint never changes: bake a new version, or delete that tag first.",
        ),
        Reason("transfer_busy", "Another run is publishing or fetching this golden checkpoint.", "Wait until it is done, then run again."),
        Reason("command_failed", "A command failed for a reason that is not in the table.", "Read the command's output below."),
    )
}


def explain(text: str) -> Reason | None:
    """The first reason whose pattern occurs in `text` (the output or log of CRIU, crun, runc or podman)."""
    for reason in REASONS.values():
        if any(re.search(pattern, text) for pattern in reason.patterns):
            return reason
    return None


class WarmstartError(Exception):
    """A failure or refusal with its reason.

    code: a key of REASONS. detail: what was wrong and where, in one line. facts: anything a caller may want to return
    beside it (never secrets).
    """

    def __init__(self, code: str, detail: str = "", **facts):
        self.reason = REASONS[code]
        self.detail = detail.strip()
        self.facts = facts
        super().__init__(str(self))

    def __str__(self) -> str:
        return " ".join(part for part in (self.reason.message, self.detail) if part)

    def as_result(self) -> dict:
        """The keys that every module returns on failure: msg, reason, fix, and the facts."""
        return {"msg": f"{self} {self.reason.fix}", "reason": self.reason.code, "fix": self.reason.fix, **self.facts}
