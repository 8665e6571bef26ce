#!/bin/sh
# Pins requirements/*.txt from pyproject.toml: every platform, every Python from 3.11 on, with hashes.
# uv lives in a throw-away environment, because nothing but this script needs it.
set -eu
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
.venv/bin/python -m venv "$scratch"
"$scratch/bin/pip" install --quiet --disable-pip-version-check uv

for target in sidecar central dev; do
    UV_PYTHON_DOWNLOADS=never UV_CUSTOM_COMPILE_COMMAND='make lock' \
        "$scratch/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --upgrade --extra "$target" --output-file "requirements/$target.txt" pyproject.toml
done
