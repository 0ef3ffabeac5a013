# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the demo shows while it works, and what it reads of the evidence. Part of tests/scripts/run.
: "${root:?}"
# shellcheck source=scripts/lib/progress.sh
. "$root/scripts/lib/progress.sh"

test_a_long_step_gives_signs_of_life() {
    # shellcheck disable=SC2034 # read by with_progress
    PROGRESS_INTERVAL=1 progress_total=12
    with_progress log sh -c 'echo "   Compiling one v1.0"; sleep 1.2; echo "   Compiling two v2.0"; sleep 1.8; echo finished' 2>said || fail "failed: $(cat said)"
    [ "$(wc -l <said)" -ge 2 ] || fail "in three seconds only: $(cat said)"
    grep -q 'crate 1 of about 12; Compiling one v1.0$' said || fail "$(cat said)"
    grep -q 'crate 2 of about 12; Compiling two v2.0$' said || fail "$(cat said)"
    [ "$(tail -n 1 log)" = finished ] || fail "the log lacks output"
    with_progress log sh -c 'echo "what went wrong"; exit 7' 2>said && fail "a failure is a success"
    with_progress log sh -c 'exit 7' 2>/dev/null
    [ $? = 7 ] || fail "another status"
    grep -q 'what went wrong' said || fail "does not show why: $(cat said)"
}

test_the_demo_has_no_silent_step() {
    local line
    # shellcheck disable=SC2016 # as it stands in the script
    while IFS= read -r line; do
        case $line in
        # Inside build_cvmm, which with_progress runs, or its second call for the folder, which only prints it.
        *'cargo build'* | *'cargo rustc'* | *'=$('*) ;;
        *with_progress*) ;;
        # A command that with_progress runs later.
        *'=("$here/fetch"'*) ;;
        *) fail "without with_progress: $line" ;;
        esac
    done < <(grep -nE '^[^#]*("\$here/fetch"|tests/guest/build" ?(\||$)|build-qemu"|build-l1"|snpguest_program|cargo (build|rustc))' "$root/scripts/demo")
    [ "$(grep -c 'with_progress "' "$root/scripts/demo")" -ge 6 ] || fail "fewer long steps than there were"
}

test_followed_files_get_labels_and_lose_control_codes() {
    local pid
    : >console
    sleep 2.5 &
    pid=$!
    {
        follow "$pid" guest console
        printf '\033[2J\033[01;01H\033[=3hfirst\r\n\n' >>console
        sleep 1
        head -c 400 /dev/zero | tr '\0' x >>console
        echo >>console
        wait "$pid"
        sleep 0.5
    } 2>said
    [ "$(head -n 1 said)" = "      guest | first" ] || fail "$(cat -v said)"
    [ "$(wc -l <said)" = 2 ] || fail "empty lines: $(cat -v said)"
    [ "$(wc -m <said)" -lt 220 ] || fail "a long line is not cut"
}

evidence() { python3 "$root/scripts/lib/demo-evidence.py" "$@"; }

test_the_demos_checks_can_fail() {
    local nonce=afe4ca53d1db28d167ed26d5716d5f027264a911a9050754d3856f198b3cb6dc jwt
    # As a guest's TPM has signed it.
    [ "$(evidence question "$nonce")" = 7e7acf7dcd920946e9ca9a6904627d783b22632635f5adfe094e2cb5ae031388 ] || fail "$(evidence question "$nonce")"
    jwt=e30.$(printf '{"submods":{"cpu0":{"cvmm":{"evidence_class":"guest-report"}}}}' | base64 -w 0 | tr -d =).x
    printf '%s\n' '{"seq":1,"event":"denied","vm":"demo","reasons":[{"code":"policy.debug"}]}' \
        "{\"seq\":2,\"event\":\"admitted\",\"vm\":\"other\",\"answer\":{\"jwt\":\"$jwt\"}}" >audit
    evidence admitted audit demo guest-report 2>said && fail "another VM's ticket counts"
    evidence admitted audit other id-block 2>said && fail "another class counts"
    evidence admitted audit other guest-report || fail "the ticket is not found"
    evidence audit audit demo | grep -qE '^ +1 +denied +policy.debug$' || fail "$(evidence audit audit demo)"
    printf 'pcrs:\n  sha256:\n' >yaml
    printf '    %s  : 0xAB\n' 0 1 2 3 4 5 6 7 >>yaml
    python3 - >bundle <<'PY'
import json
print(json.dumps({"tpm": {"quote": {"pcrs": [{"bank": "sha256", "index": i, "value": "ab"} for i in range(8)]}}}))
PY
    evidence pcrs bundle yaml | grep -q '^8 PCRs' || fail "$(evidence pcrs bundle yaml)"
    sed -i 's/7  : 0xAB/7  : 0xAC/' yaml
    evidence pcrs bundle yaml >said && fail "another PCR is accepted"
    grep -q 'not: sha256 7' said || fail "$(cat said)"
    printf 'pcrs:\n' >yaml
    evidence pcrs bundle yaml >said && fail "no PCR at all is accepted"
    printf 'psp: SNP_LAUNCH_FINISH x digest aa: SUCCESS\npsp: SNP_GUEST_REQUEST: SUCCESS\npsp: SNP_LAUNCH_FINISH x digest bb: SUCCESS\n' >log
    [ "$(evidence requests log aa) $(evidence requests log cc)" = "1 1 0 0" ] || fail "$(evidence requests log aa)"
}
