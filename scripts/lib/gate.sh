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

# kit_vm: vm.toml of the guest that shows its evidence to the gate
kit_vm() {
    cat <<'TOML'
# Written by scripts/snp-host.
name = "web"
vcpus = 1
memory = "512MiB"
isolation = "snp"
firmware = "/mnt/firmware/OVMF.amdsev.fd"

[boot]
profile = "uki"
uki = "/mnt/kit/guest.efi"

[console]
device = "serial"
mode = "stdio"

[[disk]]
path = "/mnt/kit/tool.img"
serial = "tool"
read_only = true

[gate]
socket = "gate/gate.sock"
verdict_key = "gate/keys/verdict.pem.pub"
policy = "web"
channel = true
timeout = 60
TOML
}

# gate_kit PROGRAMS KEYS PRODUCT IMAGE KIT: makes the folder KIT with all that the commands of docs/internals/emulator.md want beside programs and
# firmware. The emulated processor's keys are made in KEYS; IMAGE is what tests/guest/build has made.
gate_kit() {
    local programs=$1 keys=$2 product=$3 image=$4 kit=$5 said
    local root=${BASH_SOURCE[0]%/*}/../..
    mkdir "$kit"
    said=$("$programs/cvmm-psp-pki" --product "$product" --out "$keys" 2>&1) || die "cvmm-psp-pki failed: $said"
    test_roots "$keys" "$product" "$kit/roots"
    "$root/tests/guest/build" --uki "$kit/guest.efi" "$(cat "$image/cmdline") cvmm.test=attest cvmm.vm=web" >/dev/null || return 1
    # A disk of the guest.
    cp "$programs/cvmm-guest" "$kit/tool.img"
    truncate -s %1M "$kit/tool.img"
    kit_vm >"$kit/vm.toml"
    # As the page has them.
    awk '/^```/ { if (inside) exit; inside = here; next } /^## / { here = $0 == "## A gate by hand" } inside' \
        "$root/docs/internals/emulator.md" >"$kit/commands.sh"
}
