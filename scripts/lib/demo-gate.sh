#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What scripts/demo does in the host: a gate, a policy made from vm.toml, the right guest, and four that differ. Runs with busybox too.
#
#   demo-gate.sh BIN OUT GATE FIRMWARE IMAGE [SIGNATURE-OPTION]...
#
# BIN has cvmm and cvmm-gate. OUT has the gate's folder as it starts (gate) and vm.toml, changed-image.toml, changed-policy.toml,
# changed-vcpus.toml, all with the gate in GATE, a copy of it; IMAGE is what boots, and IMAGE.changed the same with another byte. Says
# each step in OUT/steps; leaves there NAME.log and NAME.json (cvmm's messages and timeline), guest-console.log, verdicts (NAME STATUS),
# gate.log, audit.log, verdict.pem.pub and audit-verified.
set -eu
bin=$1 out=$2 gate=$3 firmware=$4 image=$5
shift 5

step() { echo "$*" >>"$out/steps"; }

: >"$out/verdicts"
cp -R "$out/gate" "$gate"
step "cvmm-gate artifact import: the gate gets the firmware and both images, to compute digests itself"
"$bin/cvmm-gate" artifact import -c "$gate/gate.toml" "$firmware" "$image" "$image.changed" >>"$out/gate.log" 2>&1
step "cvmm policy init: a policy for this guest; it also has to quote its TPM"
"$bin/cvmm" policy init --config "$out/vm.toml" "$@" --output "$gate/policies/demo.toml" >>"$out/gate.log" 2>&1
# In the emulated host the gate has the processor's certificates, and can believe a quote.
[ ! -e "$gate/roots" ] || printf '\n[vtpm]\nquote = "require"\nevent_log = "require"\n' >>"$gate/policies/demo.toml"
sign() {
    "$bin/cvmm-gate" policy sign --key "$gate/keys/policy.pem" "$gate/policies/demo.toml" >>"$out/gate.log" 2>&1
    cp "$gate/policies/demo.toml" "$out/$1"
}
sign policy.toml
step "cvmm-gate serve"
"$bin/cvmm-gate" serve -c "$gate/gate.toml" >>"$out/gate.log" 2>&1 &
pid=$!
trap 'kill "$pid" 2>/dev/null || true' EXIT
tries=0
until [ -S "$gate/gate.sock" ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ] || ! kill -0 "$pid"; then echo "the gate does not serve: see $out/gate.log" >&2; exit 1; fi
    sleep 0.1
done

# refused NAME CONFIG WHAT: a guest that must not run. What cvmm says goes to NAME.log.
refused() {
    refusal=0
    step "cvmm run: a guest with $3"
    "$bin/cvmm" run --config "$out/$2" --timeline "$out/$1.json" </dev/null >"$out/$1.log" 2>&1 || refusal=$?
    echo "$1 $refusal" >>"$out/verdicts"
    step "  cvmm ended with exit code $refusal"
}
refused image changed-image.toml "one byte of its image changed"
refused policy changed-policy.toml "a guest policy that allows debugging"
refused vcpus changed-vcpus.toml "one vCPU more"

# The right guest. Its console and cvmm's messages go to files of their own.
status=0
step "cvmm run: the guest that the policy names"
sh "${0%/*}/demo-run.sh" "$out" "$bin/cvmm" run --config "$out/vm.toml" --timeline "$out/timeline.json" || status=$?
echo "right $status" >>"$out/verdicts"
step "  cvmm ended with exit code $status"

# The same guest, after the policy has been raised above what this host has.
awk '/^version = /{ $0 = "version = 2" } /^microcode = /{ $0 = "microcode = " $3 + 1 } { print }' "$out/policy.toml" >"$gate/policies/demo.toml"
sign raised-policy.toml
kill -HUP "$pid"
sleep 1
refused tcb vm.toml "a policy that now wants newer microcode than this host has"

kill -TERM "$pid"
wait "$pid" || true
trap - EXIT
cp "$gate/audit.log" "$out/audit.log"
cp "$gate/keys/verdict.pem.pub" "$out/"
step "cvmm-gate audit verify: the gate's log, with its public key"
if "$bin/cvmm-gate" audit verify --key "$out/verdict.pem.pub" "$out/audit.log" >"$out/audit-verified" 2>&1; then
    echo "audit 0" >>"$out/verdicts"
else
    echo "audit 1" >>"$out/verdicts"
fi
exit "$status"
