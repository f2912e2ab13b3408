#!/usr/bin/env bash
# Runs `ansible-test sanity` on a copy of the tree: it wants a checkout called ansible_collections/gpufleet/warmstart.
# Usage: tests/sanity.sh BIN CACHE [TEST...]. Touches build/ansible_collections and CACHE/ansible-test, where ansible-test keeps its own venvs.
set -euo pipefail

bin=$1 home=$2/ansible-test
shift 2
cd "$(dirname "$0")/.."
copy=build/ansible_collections/gpufleet/warmstart

rm -rf "$copy"
mkdir -p "$copy" "$home/.ansible/test/cache"
git ls-files --cached --others --exclude-standard -z | while IFS= read -r -d '' file; do
    [ ! -e "$file" ] || printf '%s\0' "$file" # deleted, and not yet committed
done | tar --null -T - -c | tar -x -C "$copy"

git init --quiet "$copy" # else ansible-test asks the checkout around it, which ignores build/

# ansible-test downloads get-pip.py for its venvs; the pip that Python brings along does as well, and needs no network.
pip=$("$bin/python" - <<'END'
import pathlib, re, ansible_test
source = pathlib.Path(ansible_test.__path__[0], "_internal", "python_requirements.py").read_text()
print(re.search(r"pip='([\d.]+)'", source)[1].replace(".", "_"))
END
)
printf 'import ensurepip\n\nensurepip.bootstrap()\n' >"$home/.ansible/test/cache/get_pip_$pip.py"

# One tool is not Python: shellcheck. pslint is about PowerShell, of which there is none.
command -v shellcheck >/dev/null || apt-get install -qq --yes shellcheck >/dev/null || echo "no shellcheck: that test is skipped"

tests=()
for name in "$@"; do tests+=(--test "$name"); done
cd "$copy"
HOME=$home exec "$bin/ansible-test" sanity --color no --python "$("$bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" "${tests[@]}"
