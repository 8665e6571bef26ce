#!/bin/sh
# What the read figures compare with and load by: Debian's nginx and wrk. Needs root and apt.
set -eu
command -v nginx >/dev/null && command -v wrk >/dev/null && exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends nginx-light wrk
