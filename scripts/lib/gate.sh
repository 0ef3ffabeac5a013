# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# A gate in an emulated host, for scripts/demo and scripts/snp-host: programs, and whom it believes.

# given_programs: the folder that CVMM_PROGRAMS names, if it has all of them
given_programs() {
    local program
    for program in cvmm cvmm-gate cvmm-guest cvmm-psp-pki; do
        [ -x "$CVMM_PROGRAMS/$program" ] || die "CVMM_PROGRAMS names '$CVMM_PROGRAMS', which has no $program"
    done
    (cd "$CVMM_PROGRAMS" && pwd)
}

# build_gate_programs ROOT [CARGO-OPTION]...: what given_programs wants, in the folder `boot` of cargo's target folder
build_gate_programs() {
    local root=$1
    shift
    need_build_packages
    need_packages python3:python3
    cd "$root" || return 1
    cargo build "$@" --locked --profile boot -p cvmm -p cvmm-gate -p cvmm-psp --bins || return 1
    # What the guest shows its evidence with. It has no libraries, so this one program is linked statically.
    cargo rustc "$@" --locked --profile boot -p cvmm-guest --bin cvmm-guest -- -C target-feature=+crt-static
}

# test_roots KEYS PRODUCT DIR: the emulated processor's root and intermediate certificate, as unsafe_test_roots names them
test_roots() {
    mkdir -p "$3"
    cp "$1/certs/ark.der" "$3/$2_ark.der"
    cp "$1/certs/ask.der" "$3/$2_ask.der"
}
