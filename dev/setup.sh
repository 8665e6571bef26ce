#!/bin/sh
# Makes .venv/ from requirements/dev.txt, once. POSIX sh, because it runs before anything of ours exists.
#
# .venv/installed.txt is the copy of the requirements that were installed in full. It is written last and
# removed first, so an environment whose set-up was interrupted is seen as such and made anew.
set -eu
cd "$(dirname "$0")/.."

wanted=requirements/dev.txt
installed=.venv/installed.txt

fail() {
    echo "setup: $*" >&2
    exit 1
}

# A name on the PATH proves nothing: a pyenv shim may exist for a version that does not.
find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found (tried \$PYTHON, python3, python3.13, python3.12, python3.11);" \
        "install one or set PYTHON to it."
}

install() {
    .venv/bin/python -m pip --disable-pip-version-check --no-input install --quiet --retries 3 \
        --no-deps --only-binary :all: --require-hashes -r "$wanted" >.venv/pip.log 2>&1
}

if cmp -s "$wanted" "$installed" && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

if ! [ -f "$installed" ] || ! .venv/bin/python -c '' 2>/dev/null; then
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module (on Debian and Ubuntu: apt-get install python3-venv)."
    "$python" -m venv --clear .venv || fail "$python could not make .venv (see above)."
fi
rm -f "$installed"

echo "setup: installing $(grep -c '==' "$wanted") pinned packages into .venv with $(.venv/bin/python --version)"
if ! install; then
    if grep -qE 'NewConnectionError|Retrying|ProxyError|Temporary failure|ReadTimeout' .venv/pip.log; then
        fail "pip cannot reach its package index: check the network or the proxy, then run it again."
    fi
    fail "pip failed, see .venv/pip.log: $(grep -m1 '^ERROR' .venv/pip.log || tail -n1 .venv/pip.log)"
fi
cp "$wanted" "$installed"
