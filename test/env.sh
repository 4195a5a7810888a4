# shellcheck shell=bash
# What the scripts of this folder share; sourced by them.
set -euo pipefail

# repo is the checkout; cache holds what is expensive to get and may be deleted at any time.
# shellcheck disable=SC2034 # used by who sources this
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/sdbackup
# Debian's su gives root the path of a user, and cached programs are those that are unpacked, not installed.
export PATH=$PATH:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin:$cache/bin

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# step prints a heading.
step() {
  printf '\n== %s\n' "$*"
}
