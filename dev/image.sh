#!/bin/sh
# Builds both images and starts each once, as its own user: a wrong setting must end it with 64.
# With docker or podman where one works; else, as root on Debian, with buildah on a base made by
# debootstrap under the base image's name (no registry of images is needed then).
set -eu
cd "$(dirname "$0")/.."

say() { echo "image: $*"; }
base=$(sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile)

check() { # what it ended with, what it is
    [ "$1" -eq 64 ] || { say "$2 ended with $1, expected 64 (its settings are missing)"; exit 1; }
    say "$2 starts as its user and asks for its settings"
}

with_engine() {
    for target in sidecar central; do
        "$1" build --quiet --target "$target" --tag "texera-cu-$target" . >/dev/null
        code=0
        "$1" run --rm --read-only "texera-cu-$target" 2>/dev/null || code=$?
        check "$code" "$target"
    done
}

debian_base() { # Debian's own Python under the name that the Dockerfile asks for
    root=$(mktemp -d)
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
        stable "$root" >/dev/null
    ln -s /usr/bin/python3 "$root/usr/local/bin/python"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$root" / >/dev/null
    buildah commit --quiet "$container" "docker.io/library/$base" >/dev/null
    buildah rm "$container" >/dev/null
    rm -rf "$root"
}

with_buildah() {
    for tool in buildah debootstrap; do
        command -v "$tool" >/dev/null || apt-get install -y -qq "$tool" >/dev/null
    done
    buildah inspect --type image "docker.io/library/$base" >/dev/null 2>&1 || debian_base
    for target in sidecar central; do
        # The machine's own certificates: it may reach its package registry through a proxy.
        buildah build --quiet --isolation chroot --network host --pull=never \
            --volume /etc/ssl/certs:/etc/ssl/certs:ro \
            --target "$target" --tag "texera-cu-$target" . >/dev/null
        container=$(buildah from --pull=never "localhost/texera-cu-$target")
        code=0
        # chroot isolation knows neither ENTRYPOINT nor a read-only root.
        buildah run --isolation chroot --user 65532:65532 "$container" -- \
            /opt/venv/bin/python -m "$target" serve 2>/dev/null || code=$?
        buildah rm "$container" >/dev/null
        check "$code" "$target"
    done
    say "built with buildah; a read-only root was not tried, its isolation here has none"
}

for engine in docker podman; do
    if command -v "$engine" >/dev/null && "$engine" info >/dev/null 2>&1; then
        with_engine "$engine"
        exit
    fi
done
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    with_buildah
else
    say "not built: no docker or podman engine runs here, and buildah's way needs root on Debian" >&2
    exit 2
fi
