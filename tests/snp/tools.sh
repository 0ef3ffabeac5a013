# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# The oracles that judge what the emulated host made, at pinned versions in the cache folder: sev-snp-measure (PyPI) and
# snpguest (crates.io). Needs scripts/lib/common.sh.

SNPGUEST_VERSION=0.11.0
tools_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# snp_measure_dir: prints the folder to put into PYTHONPATH.
snp_measure_dir() {
    local dir
    dir=$(cache_dir)/tools/sev-snp-measure-$(sha256sum <"$tools_here/requirements.txt" | cut -c1-16)
    if [ ! -d "$dir" ]; then
        need_packages /usr/bin/python3:python3
        /usr/bin/python3 -m pip --version >/dev/null 2>&1 || need_packages /nonexistent:python3-pip
        with_lock "$(cache_dir)/tools/.lock" install_snp_measure "$dir" >&2
    fi
    printf '%s\n' "$dir"
}

# Without what it depends on: that is for ID blocks, which it does not make here.
install_snp_measure() {
    [ ! -d "$1" ] || return 0
    rm -rf "$1.tmp"
    PIP_ROOT_USER_ACTION=ignore /usr/bin/python3 -m pip install --quiet --disable-pip-version-check --no-deps \
        --only-binary :all: --require-hashes -r "$tools_here/requirements.txt" --target "$1.tmp" || die "pip could not install sev-snp-measure"
    mv -T "$1.tmp" "$1"
}

# snpguest_program: prints its path. The key has the C library's version: the cache may be shared by several Debians.
snpguest_program() {
    local dir
    dir=$(cache_dir)/tools/snpguest-$SNPGUEST_VERSION-$(getconf GNU_LIBC_VERSION | tr ' ' -)
    if [ ! -x "$dir/bin/snpguest" ]; then
        need_packages cc:gcc pkg-config:pkgconf /usr/include/openssl/ssl.h:libssl-dev
        with_lock "$(cache_dir)/tools/.lock" install_snpguest "$dir" >&2
    fi
    printf '%s\n' "$dir/bin/snpguest"
}

# With the system's OpenSSL instead of one of its own, and unoptimised: the compiler is what takes the time.
install_snpguest() {
    [ ! -x "$1/bin/snpguest" ] || return 0
    say "building snpguest $SNPGUEST_VERSION (one to two minutes, once)"
    rm -rf "$1.tmp"
    OPENSSL_NO_VENDOR=1 CARGO_TARGET_DIR=$1.tmp/target CARGO_PROFILE_DEV_DEBUG=0 \
        cargo install --quiet --locked --debug --version "=$SNPGUEST_VERSION" --root "$1.tmp" --no-track snpguest ||
        die "cargo could not build snpguest $SNPGUEST_VERSION"
    rm -rf "$1.tmp/target" "$1"
    mv -T "$1.tmp" "$1"
}
