# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# No script deletes or overwrites what it did not make. Part of tests/scripts/run.
: "${root:?}"

# programs DIR: stand-ins for the programs that a runner wants to see before it looks at its output folder.
programs() {
    local name
    mkdir -p "$1"
    for name in cvmm cvmm-boot-tests cvmm-gate cvmm-guest cvmm-hostile cvmm-psp-pki cvmm-snp-tests cvmm-vtpm; do
        printf '#!/bin/sh\nexit 1\n' >"$1/$name"
        chmod 755 "$1/$name"
    done
}

# refuses CANARY COMMAND...: COMMAND fails within a minute, says which file stands in its way, and leaves it as it is.
refuses() {
    local canary=$1 entry status=0 before
    entry=${canary#*/}
    entry=${entry%%/*}
    shift
    before=$(stat -c '%i %s %Y' "$canary")
    timeout 60 "$@" >said 2>&1 </dev/null || status=$?
    if [ ! -e "$canary" ] || [ "$(stat -c '%i %s %Y' "$canary")" != "$before" ] || [ "$(cat "$canary")" != "a file of the user" ]; then
        fail "$1 has changed or deleted $canary"
    fi
    [ "$status" != 0 ] || fail "$1 has used a folder with another file in it"
    [ "$status" != 124 ] || fail "$1 did not refuse at once"
    if ! grep -qF "$entry" said || ! grep -qE 'did not make|was not made|exists' said; then
        cat said
        fail "$1 failed without naming $entry and the reason"
    fi
}

# canary DIR [NAME]: a folder with a file of the user in it
canary() {
    mkdir -p "$1"
    printf 'a file of the user' >"$1/${2:-canary.txt}"
}

test_output_folders_with_other_files_are_refused() {
    local bin=$PWD/bin name
    programs "$bin"
    canary demo && refuses demo/canary.txt "$root/scripts/demo" --out demo
    # Not even under a name that the script itself uses.
    canary demo2 vm.toml && refuses demo2/vm.toml "$root/scripts/demo" --plain --out demo2
    canary demo3/gate && refuses demo3/gate/canary.txt "$root/scripts/demo" --here --plain --out demo3
    canary hidden .profile && refuses hidden/.profile "$root/scripts/demo" --out hidden
    canary boot && refuses boot/canary.txt "$root/tests/boot/run" plain --bin "$bin" --out boot
    canary snp && refuses snp/canary.txt "$root/tests/snp/run" payload --bin "$bin" --out snp
    canary tpm && refuses tpm/canary.txt "$root/tests/tpm/run" esapi thread --vtpm "$bin/cvmm-vtpm" --out tpm
    for name in boot measure attest gate stage tpm; do
        canary "bench-$name" && refuses "bench-$name/canary.txt" "$root/scripts/bench" "$name" --out "$PWD/bench-$name"
    done
}

test_shared_folders_keep_other_files() {
    local name
    for name in command.log console.log dmesg.log qemu.log l1.json; do
        canary "l1-$name" "$name" && refuses "l1-$name/$name" "$root/tests/emulator/l1" --out "l1-$name" -- true
        canary "host-$name" "$name" && refuses "host-$name/$name" "$root/scripts/snp-host" --no-cvmm --keys keys --out "host-$name" -- true
    done
    canary keys-of-others ark.pem
    timeout 60 "$root/scripts/snp-host" --no-cvmm --keys keys-of-others -- true >said 2>&1 && fail "keys were put beside other files"
    grep -q "'keys-of-others' holds other files" said || fail "$(cat said)"
    [ "$(ls -A keys-of-others)" = ark.pem ] || fail "something was put into keys-of-others"
}

test_files_that_exist_are_not_replaced() {
    canary images guest.efi
    # Without a cache of its own it would be built first.
    if ! compgen -G "$(cache_dir)/guest/*/guest.efi" >/dev/null; then
        skip "no test guest in the cache"
    fi
    refuses images/guest.efi "$root/tests/guest/build" --uki images/guest.efi "console=ttyS0"
    refuses images/guest.efi "$root/tests/guest/build" --esp images/guest.efi images/guest.efi
}

test_seeds_of_the_fuzz_targets_replace_nothing() {
    canary seeds/audit rotated && refuses seeds/audit/rotated python3 "$root/tests/fuzz/seeds.py" seeds
    [ "$(find seeds -type f)" = seeds/audit/rotated ] || fail "others were written: $(find seeds -type f)"
    python3 "$root/tests/fuzz/seeds.py" new || fail "a new folder is refused"
    [ "$(find new -mindepth 1 -type d | wc -l)" -ge 20 ] || fail "only: $(ls new)"
    touch new/other
    python3 "$root/tests/fuzz/seeds.py" new || fail "its own folder is refused"
    printf 'a file of the user' >linked && ln -sf "$PWD/linked" new/audit/rotated
    python3 "$root/tests/fuzz/seeds.py" new >said 2>&1 && fail "a link was followed"
    [ "$(cat linked)" = "a file of the user" ] || fail "a link was followed"
}

test_a_cache_folder_with_other_files_is_refused() {
    canary cache
    (CVMM_CACHE=$PWD/cache cache_dir) >said 2>&1 && fail "taken: $(cat said)"
    grep -q "which holds 'canary.txt'" said || fail "$(cat said)"
    # One of an earlier version, and a new one.
    mkdir -p old/deb old/qemu
    [ "$(CVMM_CACHE=$PWD/old cache_dir)" = "$PWD/old" ] || fail "an earlier cache is refused"
    [ "$(CVMM_CACHE=$PWD/new/cache cache_dir)" = "$PWD/new/cache" ] || fail "a new cache is refused"
    touch new/cache/anything
    [ "$(CVMM_CACHE=$PWD/new/cache cache_dir)" = "$PWD/new/cache" ] || fail "a marked cache is refused"
}

test_an_output_folder_is_reused_by_its_own_script_only() {
    (output_folder out) || fail "a new folder is refused"
    mkdir out/made && touch out/made/file out/log
    made_all out
    (output_folder out) || fail "what was made there is refused"
    [ "$(ls -A out)" = .cvmm-made ] || fail "left: $(ls -A out)"
    touch out/log out/other
    (output_folder out) >said 2>&1 && fail "a file that was not made there is accepted"
    grep -q "holds 'other'" said || fail "$(cat said)"
    [ "$(ls out)" = $'log\nother' ] || fail "something was removed by a refusal"
    # Names with line breaks, links, a list that is a link, a list that names what is elsewhere.
    mkdir odd && touch odd/$'made\nlog' && printf 'made\nlog\n' >odd/.cvmm-made
    (output_folder odd) >said 2>&1 && fail "a name with a line break is accepted"
    mkdir linked && ln -s "$PWD/out/.cvmm-made" linked/.cvmm-made && touch linked/log
    (output_folder linked) >said 2>&1 && fail "a list that is a link is believed"
    mkdir climbing && printf '%s\n' ../out . .. / >climbing/.cvmm-made
    (output_folder climbing) || fail "an empty folder is refused"
    [ -e out/other ] || fail "a list reached another folder"
    touch file && (output_folder file) >said 2>&1 && fail "a file is taken for a folder"
    [ -f file ] || fail "a file was removed"
    mkdir target && touch target/kept
    mkdir with-link && ln -s "$PWD/target" with-link/link && printf 'link\n' >with-link/.cvmm-made
    (output_folder with-link) || fail "a link that was made there is refused"
    if [ ! -e target/kept ] || [ -L with-link/link ]; then fail "a link was followed"; fi
}

test_output_files_touch_nothing_else() {
    mkdir shared && printf 'kept' >shared/other
    (output_files shared a.log b.log) || fail "a folder with other files is refused"
    printf 'first' >shared/a.log
    (output_files shared a.log b.log) || fail "its own file is refused"
    [ ! -e shared/a.log ] || fail "its own file was not removed"
    printf 'of the user' >shared/c.log
    (output_files shared a.log c.log) >said 2>&1 && fail "another's file is accepted"
    grep -q "'shared/c.log' exists and was not made" said || fail "$(cat said)"
    [ "$(cat shared/c.log shared/other)" = "of the userkept" ] || fail "something else was changed"
}
