# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Helpers shared by the scripts: messages, the cache folder, a lock, host packages.
# Progress goes to stderr, so that stdout carries only a script's result.

say() { printf '%s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# The cache lives outside the clone: `git clean` must not cost a download, and two
# clones share it.
cache_dir() {
    if [ -n "${CVMM_CACHE:-}" ]; then
        printf '%s\n' "$CVMM_CACHE"
    elif [ -n "${XDG_CACHE_HOME:-}" ]; then
        printf '%s\n' "$XDG_CACHE_HOME/cvmm"
    elif [ -n "${HOME:-}" ]; then
        printf '%s\n' "$HOME/.cache/cvmm"
    else
        die "no cache folder: set CVMM_CACHE, XDG_CACHE_HOME or HOME"
    fi
}

# with_lock FILE COMMAND...: runs COMMAND while holding FILE, so that two scripts that
# need the same artefact build it once. The lock ends with the process, never stale.
with_lock() {
    local file=$1
    shift
    mkdir -p "$(dirname "$file")" || die "cannot create $(dirname "$file"): is the cache folder writable?"
    local fd
    exec {fd}>"$file"
    if ! flock -n "$fd"; then
        say "waiting for another cvmm script that holds $file"
        flock "$fd"
    fi
    "$@"
    exec {fd}>&-
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "need root for '$*': run it as root or install sudo"
    fi
}

# The stamp stops a second `apt-get update` in one run of a script and its children.
apt_update_once() {
    [ -n "${CVMM_APT_UPDATED:-}" ] && return 0
    say "updating the host's package lists"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 ||
        warn "apt-get update failed; trying with the lists that are there"
    export CVMM_APT_UPDATED=1
}

# need_packages COMMAND:PACKAGE...: installs each PACKAGE whose COMMAND (a program name or
# an absolute path) is missing.
need_packages() {
    local pair program missing=()
    for pair in "$@"; do
        program=${pair%%:*}
        [ -e "$program" ] && continue # an absolute path
        # sbin is not in the PATH of an ordinary Debian user, but mkfs and friends live there.
        PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} = 0 ] && return 0
    command -v apt-get >/dev/null ||
        die "these Debian packages are needed and there is no apt-get here: ${missing[*]}"
    apt_update_once
    say "installing host packages: ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >&2 </dev/null || die "could not install: ${missing[*]}"
}

# What it takes to compile cvmm beside a Rust toolchain: a C compiler, and libtpms and OpenSSL,
# which crates/vtpm links statically.
need_build_packages() {
    local lib=/usr/lib/x86_64-linux-gnu
    need_packages cc:gcc /usr/include/stdio.h:libc6-dev make:make pkg-config:pkgconf \
        "$lib/libtpms.a:libtpms-dev" "$lib/libcrypto.a:libssl-dev"
}
