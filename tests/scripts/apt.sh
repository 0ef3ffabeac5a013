# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Waiting for another apt-get. Part of tests/scripts/run.
: "${root:?}"

# An apt-get that finds the lock taken TAKEN times, then works.
fake_apt() {
    mkdir -p bin
    cat >bin/apt-get <<FAKE
#!/bin/sh
echo "\$*" >>'$PWD/calls'
[ "\$(wc -l <'$PWD/calls')" -gt $1 ] || { echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1 (apt-get)' >&2; exit 100; }
FAKE
    printf '#!/bin/sh\nshift\nexec "$@"\n' >bin/sudo
    chmod 755 bin/apt-get bin/sudo
    PATH=$PWD/bin:$PATH
}

test_apt_waits_for_a_lock() {
    fake_apt 2
    (apt_get update -qq) >said 2>&1 || fail "gave up: $(cat said)"
    [ "$(wc -l <calls)" = 3 ] || fail "called $(wc -l <calls) times"
    grep -q 'another apt-get is running; waiting for it, at most 300 s' said || fail "waits without a word: $(cat said)"
    grep -qx -- '-o DPkg::Lock::Timeout=300 update -qq' calls || fail "without a lock timeout: $(cat calls)"
}

test_apt_gives_up_in_the_end() {
    fake_apt 1000
    # shellcheck disable=SC2034 # read by apt_get
    (APT_LOCK_TIMEOUT=2 && apt_get update -qq) >said 2>&1 && fail "succeeded"
    grep -q 'Could not get lock' said || fail "does not say why: $(cat said)"
    # Other failures are not retried.
    printf '#!/bin/sh\necho "E: no network" >&2\necho >>%s/calls2\nexit 100\n' "$PWD" >bin/apt-get
    (apt_get update -qq) >said 2>&1 && fail "succeeded"
    [ "$(wc -l <calls2)" = 1 ] || fail "tried again"
}

test_every_apt_get_that_changes_something_waits() {
    local found
    found=$(grep -rnE 'apt-get( -[^ ]+)* (update|install|upgrade|remove)|apt-get .*update' "$root/scripts" "$root/tests" --include='*' |
        grep -vE '/tests/scripts/|#|echo|say |warn |die |Check the network|simulate|apt_patiently|running|reads' || true)
    [ -z "$found" ] || fail "without apt_patiently: $found"
}
