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
# clones share it. The builds in it clean up after killed ones, so it must be ours.
cache_dir() {
    local dir
    if [ -n "${CVMM_CACHE:-}" ]; then
        dir=$CVMM_CACHE
        own_cache "$dir"
    elif [ -n "${XDG_CACHE_HOME:-}" ]; then
        dir=$XDG_CACHE_HOME/cvmm
    elif [ -n "${HOME:-}" ]; then
        dir=$HOME/.cache/cvmm
    else
        die "no cache folder: set CVMM_CACHE, XDG_CACHE_HOME or HOME"
    fi
    printf '%s\n' "$dir"
}

# What is in a cache folder that was made before it had a marker.
CACHE_FOLDERS=" apt deb debian demo guest guest-kernel l1 poke qemu snp-host tools "

# own_cache DIR: marks a new or empty folder as the cache; refuses one with files of others.
own_cache() {
    local dir=$1 name
    [ ! -f "$dir/.cvmm-cache" ] || return 0
    mkdir -p -- "$dir" || die "cannot create the cache folder '$dir' (CVMM_CACHE)"
    while IFS= read -r -d '' name; do
        case $CACHE_FOLDERS in *" $name "*) continue ;; esac
        die "CVMM_CACHE names '$dir', which holds '$name' and is not a cache of this project: choose a new or an empty folder"
    done < <(entries "$dir")
    : >"$dir/.cvmm-cache" || die "cannot write to the cache folder '$dir' (CVMM_CACHE)"
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

# What this project's scripts made in a folder, one name a line. Nothing else in it is deleted or overwritten.
MADE=.cvmm-made

# made_here DIR NAME: did a script of ours make NAME in DIR?
made_here() {
    [[ $2 != *$'\n'* ]] && [ -f "$1/$MADE" ] && [ ! -L "$1/$MADE" ] && grep -qxF -- "$2" "$1/$MADE"
}

# output_files DIR NAME...: prepares DIR for files and folders of these names. What an earlier run made under them is removed; what
# anything else made there is kept, and refused. DIR is created when it is missing and may hold other files.
output_files() {
    local dir=$1 name
    shift
    mkdir -p -- "$dir" || die "cannot create the output folder '$dir'"
    for name; do
        if { [ -e "$dir/$name" ] || [ -L "$dir/$name" ]; } && ! made_here "$dir" "$name"; then
            die "'$dir/$name' exists and was not made by this project's scripts: move it away, or choose another output folder"
        fi
    done
    # Listed before they are made: a run that is killed leaves nothing that the next one refuses.
    for name; do
        made_here "$dir" "$name" || printf '%s\n' "$name" >>"$dir/$MADE" || die "cannot write to the output folder '$dir'"
        rm -rf -- "${dir:?}/$name"
    done
}

# output_folder DIR: empties DIR for a run, if our scripts made all that is in it. The run calls `made_all DIR` when it exits.
output_folder() {
    local dir=$1 entry
    if [ -d "$dir" ]; then
        # Looked at completely before anything is removed.
        while IFS= read -r -d '' entry; do
            made_here "$dir" "$entry" ||
                die "the output folder '$dir' holds '$entry', which this project's scripts did not make: choose a new or an empty folder"
        done < <(entries "$dir")
        while IFS= read -r -d '' entry; do rm -rf -- "${dir:?}/$entry"; done < <(entries "$dir")
    elif [ -e "$dir" ] || [ -L "$dir" ]; then
        die "'$dir' is not a folder: choose a new or an empty one for the output"
    fi
    mkdir -p -- "$dir" || die "cannot create the output folder '$dir'"
    : >>"$dir/$MADE" || die "cannot write to the output folder '$dir'"
}

# made_all DIR: lists all that is in DIR now as made here.
made_all() {
    local entry
    while IFS= read -r -d '' entry; do
        [[ $entry == *$'\n'* ]] || made_here "$1" "$entry" || printf '%s\n' "$entry" >>"$1/$MADE"
    done < <(entries "$1")
}

# entries DIR: the names in DIR, each ended by a NUL, without the list itself.
entries() { find "$1/" -mindepth 1 -maxdepth 1 ! -name "$MADE" -printf '%f\0'; }

# new_file FILE: refuses to overwrite.
new_file() {
    if [ -e "$1" ] || [ -L "$1" ]; then die "'$1' exists: remove it, or choose another name"; fi
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

# How long to wait for another apt-get (unattended-upgrades, another script), in seconds.
APT_LOCK_TIMEOUT=${CVMM_APT_LOCK_TIMEOUT:-300}

# apt_patiently COMMAND...: an apt-get command, again while another one holds a lock. DPkg::Lock::Timeout makes apt-get itself wait for
# dpkg's lock, but not for that of the package lists.
apt_patiently() {
    local log status began=$SECONDS told=no
    log=$(mktemp)
    while :; do
        status=0
        "$@" >"$log" 2>&1 </dev/null || status=$?
        if [ "$status" = 0 ] || ! grep -q 'Could not get lock' "$log" || [ $((SECONDS - began)) -ge "$APT_LOCK_TIMEOUT" ]; then break; fi
        [ "$told" = yes ] || say "another apt-get is running; waiting for it, at most $APT_LOCK_TIMEOUT s"
        told=yes
        sleep 1
    done
    cat "$log" >&2
    rm -f "$log"
    return "$status"
}

# apt_get ARGUMENT...: the host's apt-get, as root
apt_get() {
    apt_patiently as_root env DEBIAN_FRONTEND=noninteractive LC_ALL=C \
        apt-get -o "DPkg::Lock::Timeout=$APT_LOCK_TIMEOUT" "$@"
}

# The stamp stops a second `apt-get update` in one run of a script and its children.
apt_update_once() {
    [ -n "${CVMM_APT_UPDATED:-}" ] && return 0
    say "updating the host's package lists"
    apt_get update -qq ||
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
    apt_get install -y -qq --no-install-recommends "${missing[@]}" ||
        die "could not install: ${missing[*]} (does another apt-get hold the lock for more than $APT_LOCK_TIMEOUT s?)"
}

# What it takes to compile cvmm beside a Rust toolchain: a C compiler, and libtpms and OpenSSL,
# which crates/vtpm links statically.
need_build_packages() {
    local lib=/usr/lib/x86_64-linux-gnu
    need_packages cc:gcc /usr/include/stdio.h:libc6-dev make:make pkg-config:pkgconf \
        "$lib/libtpms.a:libtpms-dev" "$lib/libcrypto.a:libssl-dev"
}

# need_rust: dies unless there is a Rust toolchain that is new enough for the default build (rust-version in Cargo.toml).
need_rust() {
    local needed have
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../../Cargo.toml" | head -n 1)
    command -v cargo >/dev/null || die "no Rust toolchain: install one from rustup.rs, $needed or later"
    have=$(rustc --version 2>/dev/null | awk '{ print $2 }')
    [ "$(printf '%s\n' "$needed" "${have%%-*}" | sort -V | head -n 1)" = "$needed" ] ||
        die "this Rust toolchain is ${have:-unknown}, and cvmm needs $needed or later: rustup update stable"
}
