# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SSH signatures over manifest.json: verified with ssh-keygen and a list of allowed signers.

Runs ssh-keygen; writes the list of signers to a file of its own while that runs. Manifests are signed on the controller (role
warmup), since the private key stays there. The manifest holds the archive's digests, so that a signature covers both.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ansible_collections.gpufleet.warmstart.plugins.module_utils._command import Runner, last_lines
from ansible_collections.gpufleet.warmstart.plugins.module_utils._reason import WarmstartError

NAMESPACE = "gpufleet-warmstart"


def signature_path(manifest: Path) -> Path:
    return manifest.with_name(f"{manifest.name}.sig")


def verify(runner: Runner, manifest: Path, content: bytes, allowed_signers: str) -> str:
    """Who signed `content`, which was read from the file `manifest`; `allowed_signers` is the text of an allowed_signers file.

    Raises signature_missing, signature_unknown (a key that is not allowed), signature_invalid, bad_input, dependency_missing.
    """
    lines = [line.split() for line in allowed_signers.splitlines() if line.strip() and not line.strip().startswith("#")]
    if not lines or min(map(len, lines)) < 3:
        raise WarmstartError("bad_input", 'A line of allowed_signers is: NAME namespaces="gpufleet-warmstart" ssh-ed25519 AAAA...')
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise WarmstartError("manifest_invalid", f"{manifest} is not UTF-8: {error}") from None
    signature = signature_path(manifest)
    if not signature.is_file():
        raise WarmstartError("signature_missing", f"There is no {signature}.")
    descriptor, signers = tempfile.mkstemp(prefix="warmstart-signers-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(allowed_signers if allowed_signers.endswith("\n") else allowed_signers + "\n")
        common = ("-s", str(signature), "-f", signers)
        found = runner.run("ssh-keygen", "-Y", "find-principals", *common, check=False)
        if found.rc == 127:
            raise WarmstartError("dependency_missing", "Verifying a signature needs ssh-keygen (openssh-client).")
        if found.rc != 0:
            # Of a signature that it cannot read it says this, too, after what is wrong.
            code = "signature_unknown" if found.output == "No principal matched." else "signature_invalid"
            raise WarmstartError(code, f"{signature}: {last_lines(found.output)}")
        name = found.stdout.splitlines()[0].strip()
        done = runner.run("ssh-keygen", "-Y", "verify", *common, "-I", name, "-n", NAMESPACE, text=text, check=False)
        if done.rc != 0:
            raise WarmstartError("signature_invalid", f"{manifest} is not what {name} signed: {last_lines(done.output)}")
        return name
    finally:
        os.unlink(signers)
