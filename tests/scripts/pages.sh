# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Commands that pages print, run as they stand there. Part of tests/scripts/run.
: "${root:?}"

# block PAGE HEADING KIND: the first fenced block of KIND under the heading
block() {
    awk -v heading="$2" -v fence="\`\`\`$3" '
        $0 == heading { here = 1; next }
        here && /^#+ / { exit }
        inside && /^```$/ { exit }
        inside { print }
        here && $0 == fence { inside = 1 }' "$root/$1"
}

# built_programs: the folder with cvmm and cvmm-gate, or fails
built_programs() {
    local dir
    for dir in "${CVMM_PROGRAMS:-}" "${CARGO_TARGET_DIR:-$root/target}/debug"; do
        [ -z "$dir" ] || { [ -x "$dir/cvmm" ] && [ -x "$dir/cvmm-gate" ] && printf '%s\n' "$dir" && return 0; }
    done
    return 1
}

# A UKI that is just enough to be measured: Debian's stub with a kernel in it.
small_uki() {
    local stub guest
    stub=$("$root/scripts/fetch" sd-stub) && guest=$("$root/scripts/fetch" kernel-guest) || return 1
    cp -L "$guest/vmlinuz" kernel
    printf 'console=ttyS0' >cmdline
    python3 "$root/tests/guest/pack.py" uki "$stub/linuxx64.efi.stub" "$1" cmdline=cmdline linux=kernel
}

test_the_first_commands_of_gate_md_run_as_printed() {
    local programs firmware user=() command served=no
    programs=$(built_programs) || skip "cvmm and cvmm-gate are not built"
    firmware=$("$root/scripts/fetch" ovmf-amdsev 2>/dev/null) || skip "no firmware"
    small_uki guest.efi || skip "no stub or kernel for a UKI"
    cp "$firmware/OVMF.amdsev.fd" .
    block docs/guide/gate.md "## From nothing to a guest behind a gate" toml >vm.toml
    block docs/guide/gate.md "## From nothing to a guest behind a gate" sh >commands
    [ "$(wc -l <commands)" -ge 6 ] || fail "found only: $(cat commands)"
    # The page says: not as root.
    if [ "$(id -u)" = 0 ]; then
        user=(setpriv --reuid 65534 --regid 65534 --clear-groups)
        # Where that user can read them.
        cp "$programs/cvmm" "$programs/cvmm-gate" .
        chmod 711 "${PWD%/*}"
        chown -R 65534:65534 .
        programs=$PWD
        "${user[@]}" test -x "$programs/cvmm-gate" || skip "another user cannot reach $PWD"
    fi
    while IFS= read -r command; do
        case $command in
        *'cvmm-gate serve '*)
            served=yes
            # Its sandbox wants a kernel of its own (Linux 6.10), which a machine for tests may not have.
            sed -i '1i sandbox = "best-effort"' gate/gate.toml
            "${user[@]}" env "PATH=$programs:$PATH" sh -c "exec $command" >serve.log 2>&1 </dev/null &
            for _ in {1..100}; do [ -S gate/gate.sock ] && break; sleep 0.1; done
            kill -TERM $! || fail "the gate has ended: $(cat serve.log)"
            wait $! || fail "the gate ended with $?: $(cat serve.log)" ;;
        *) "${user[@]}" env "PATH=$programs:$PATH" sh -c "$command" >said 2>&1 </dev/null || fail "$command: $(cat said)" ;;
        esac
    done <commands
    [ "$served" = yes ] || fail "no command serves"
    grep -q '"measurements"\|^measurements' gate/policies/web.toml || fail "no digest in the policy"
    [ -s gate/policies/web.toml.jws ] || fail "the policy was not signed"
}

test_the_uki_of_images_md_is_made_as_printed() {
    local programs ukify stub guest command
    programs=$(built_programs) || skip "cvmm is not built"
    if ! ukify=$("$root/scripts/fetch" ukify 2>/dev/null) || ! stub=$("$root/scripts/fetch" sd-stub 2>/dev/null) ||
        ! guest=$("$root/scripts/fetch" kernel-guest 2>/dev/null); then
        skip "ukify, stub or kernel cannot be fetched"
    fi
    command=$(block docs/guide/images.md "## A UKI of your distribution" sh | sed -n '/^ukify build/,$p')
    [ -n "$command" ] || fail "the page has no ukify command"
    # The same command with the fetched stub and kernel in the place of an installed system's.
    mkdir boot
    cp -L "$guest/vmlinuz" boot/vmlinuz-test
    printf 'an initrd' >boot/initrd.img-test
    command=${command//\/usr\/lib\/systemd\/boot\/efi/$stub}
    command=${command//\/boot\//boot/}
    # shellcheck disable=SC2016 # as it is printed
    command=${command//'$(uname -r)'/test}
    case $command in */usr/lib/systemd/*) fail "not all paths were replaced: $command" ;; esac
    PATH=$ukify:$PATH sh -c "$command" >said 2>&1 || fail "$command: $(cat said)"
    # cvmm takes it: firmware is all that is missing. Its own takes minutes to build.
    { echo 'firmware = "OVMF.amdsev.fd"' && block docs/guide/images.md "## A UKI of your distribution" toml; } >vm.toml
    printf disk >root.img
    truncate -s 1M root.img
    cp "$("$root/scripts/fetch" ovmf-amdsev)/OVMF.amdsev.fd" .
    "$programs/cvmm" measure --config vm.toml --vcpu-type EPYC-Milan >digest 2>said || fail "cvmm measure: $(cat said)"
    grep -qxE '[0-9a-f]{96}' digest || fail "no digest: $(cat digest)"
}

test_the_gate_by_hand_of_emulator_md_is_set_up_as_printed() {
    local programs image firmware command
    if ! programs=$(built_programs) || [ ! -x "$programs/cvmm-psp-pki" ] || [ ! -x "$programs/cvmm-guest" ]; then
        skip "cvmm, cvmm-gate, cvmm-guest and cvmm-psp-pki are not built"
    fi
    image=$(compgen -G "$(cache_dir)/guest/*/cmdline" | head -n 1) || skip "no test guest in the cache"
    firmware=$("$root/scripts/fetch" ovmf-amdsev 2>/dev/null) || skip "no firmware"
    # shellcheck source=scripts/lib/gate.sh
    . "$root/scripts/lib/gate.sh"
    (gate_kit "$programs" keys milan "${image%/*}" "$PWD/kit") >said 2>&1 || fail "$(cat said)"
    # Here instead of in the emulated host, up to the gate that would serve.
    sed -i "s|/mnt/kit|$PWD/kit|; s|/mnt/firmware|$firmware|" kit/vm.toml
    sed "s|^cd /tmp$|cd '$PWD'|; /^cvmm-gate serve/,\$d" kit/commands.sh >commands
    grep -q '^cvmm-gate check' commands || fail "the page's commands: $(cat commands)"
    # In that host the least TCB is the host's.
    PATH=$programs:$PATH KIT=$PWD/kit CERTS=$PWD/keys/certs FIRMWARE=$firmware/OVMF.amdsev.fd \
        PROCESSOR="--vcpu-type=EPYC-Milan --tcb=4,0,22,213" sh -eux commands >said 2>&1 || fail "$(cat said)"
    [ -s gate/policies/web.toml.jws ] || fail "no signed policy: $(cat said)"
    [ -n "$(find gate/certificates/vcek -name '*_vcek.der')" ] || fail "no certificate: $(cat said)"
    # The rest starts what the pages start.
    for command in 'cvmm-gate serve ' 'cvmm run --config vm.toml' 'cvmm-gate audit verify '; do
        grep -q "^$command" kit/commands.sh || fail "the page has no $command"
    done
}

test_commands_that_pages_print_exist() {
    local programs program
    programs=$(built_programs) || skip "cvmm and cvmm-gate are not built"
    for program in cvmm-guest cvmm-vtpm cvmm-psp-pki; do
        [ -x "$programs/$program" ] || skip "$program is not built"
    done
    (cd "$root" && python3 tests/scripts/commands.py "$programs") >said 2>&1 || fail "$(cat said)"
    # A page with commands that do not exist.
    # shellcheck disable=SC2016 # as a page has it
    printf 'Run `cvmm run --config vm.toml`, `cvmm run --confg vm.toml` and `cvmm rum`.\n' >page.md
    python3 "$root/tests/scripts/commands.py" "$programs" page.md >said 2>&1 && fail "accepts: $(cat page.md)"
    grep -qx 'page.md: cvmm run has no option --confg' said || fail "$(cat said)"
    grep -qx 'page.md: cvmm has no command rum' said || fail "$(cat said)"
    grep -qx '3 commands, 2 problems' said || fail "$(cat said)"
}
