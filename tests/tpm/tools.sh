# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# TPM test suites that others wrote, from crates.io and PyPI at pinned versions and checksums, built once in the cache
# folder. Needs scripts/lib/common.sh.

TSS_ESAPI=tss-esapi-7.7.0
TSS_ESAPI_SHA256=3f10b25a84912b894d0e6d68f4a3771c923e9c44ddaaed7920cde92ed28aa84e
PYTSS=3.0.0
PYTSS_SHA256=c193cf1908b482f93c4aa464132920fe3a37d4b9d802e267974ff2dfe37d4433

need_tss_packages() {
    need_packages cc:gcc /usr/include/stdio.h:libc6-dev pkg-config:pkgconf /usr/include/tss2/tss2_esys.h:libtss2-dev \
        /usr/lib/x86_64-linux-gnu/libtss2-tcti-swtpm.so:libtss2-dev
}

# checked FILE SHA256
checked() {
    printf '%s  %s\n' "$2" "$1" | sha256sum --check --status || die "the checksum of ${1##*/} is not the pinned one"
}

# esapi_dir: prints the folder with `source`, the suite, and `target`, what is built of it.
esapi_dir() {
    local dir
    dir=$(cache_dir)/tools/$TSS_ESAPI-$({ rustc -vV; getconf GNU_LIBC_VERSION; cat "${BASH_SOURCE[0]}"; } | sha256sum | cut -c1-16)
    if [ ! -e "$dir/built" ]; then
        need_tss_packages
        with_lock "$(cache_dir)/tools/.lock" build_esapi "$dir" >&2
    fi
    printf '%s\n' "$dir"
}

# In the folder itself: what cargo builds knows where it is. With the versions that the suite was published with.
build_esapi() {
    [ ! -e "$1/built" ] || return 0
    say "building the tests of $TSS_ESAPI (a minute, once)"
    rm -rf "$1"
    mkdir -p "$1/fetch"
    printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[lib]\npath = "lib.rs"\n[dependencies]\ntss-esapi = "=%s"\n' \
        "${TSS_ESAPI##*-}" >"$1/fetch/Cargo.toml"
    touch "$1/fetch/lib.rs"
    local manifest crate
    cargo fetch --quiet --manifest-path "$1/fetch/Cargo.toml" || die "cargo could not fetch $TSS_ESAPI"
    manifest=$(cargo metadata --format-version 1 --manifest-path "$1/fetch/Cargo.toml" |
        grep -o "\"manifest_path\":\"[^\"]*/$TSS_ESAPI/Cargo.toml\"" | head -n 1 | cut -d '"' -f 4)
    crate=${manifest%/"$TSS_ESAPI"/Cargo.toml}
    crate=${crate/registry\/src/registry\/cache}/$TSS_ESAPI.crate
    [ -f "$crate" ] || die "cargo's cache has no $TSS_ESAPI.crate"
    checked "$crate" "$TSS_ESAPI_SHA256"
    tar -xzf "$crate" -C "$1"
    mv "$1/$TSS_ESAPI" "$1/source"
    esapi_cargo "$1" test --no-run || die "the tests of $TSS_ESAPI do not build"
    touch "$1/built"
}

# esapi_cargo DIR ARGUMENT...: cargo in the suite's folder.
esapi_cargo() {
    local dir=$1
    shift
    (cd "$dir/source" && CARGO_TARGET_DIR=$dir/target CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_DEBUG=0 \
        timeout -k 10 1200 cargo "$1" --locked "${@:2}")
}

# pytss_dir: prints the folder with `source` and `venv`.
pytss_dir() {
    local dir
    dir=$(cache_dir)/tools/tpm2-pytss-$({ /usr/bin/python3 -V; getconf GNU_LIBC_VERSION; cat "${BASH_SOURCE[0]}"; } | sha256sum | cut -c1-16)
    if [ ! -e "$dir/built" ]; then
        need_tss_packages
        need_packages /usr/bin/python3:python3
        need_packages "$(/usr/bin/python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h:python3-dev"
        /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || need_packages /nonexistent:python3-venv
        with_lock "$(cache_dir)/tools/.lock" build_pytss "$dir" >&2
    fi
    printf '%s\n' "$dir"
}

build_pytss() {
    [ ! -e "$1/built" ] || return 0
    say "building tpm2-pytss $PYTSS (a minute, once)"
    rm -rf "$1"
    mkdir -p "$1/source"
    /usr/bin/python3 -m venv "$1/venv"
    local pip=("$1/venv/bin/pip" --quiet --disable-pip-version-check)
    "${pip[@]}" download --no-deps --no-binary tpm2-pytss "tpm2-pytss==$PYTSS" -d "$1" || die "pip could not fetch tpm2-pytss"
    checked "$1/tpm2_pytss-$PYTSS.tar.gz" "$PYTSS_SHA256"
    "${pip[@]}" install "$1/tpm2_pytss-$PYTSS.tar.gz" pytest==8.4.2 || die "pip could not build tpm2-pytss"
    tar -xzf "$1/tpm2_pytss-$PYTSS.tar.gz" -C "$1/source" --strip-components 1
    touch "$1/built"
}
