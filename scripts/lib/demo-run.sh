#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs a command for scripts/demo: its output, which is the guest's console, goes to OUT/guest-console.log and its messages to
# OUT/right.log, line by line. Runs with busybox too.
#
#   demo-run.sh OUT COMMAND [ARGUMENT]...
#
# Each line is written by itself: in the emulated host a file on a shared folder is seen outside only when it is closed.
set -eu
out=$1
shift
pipes=$(mktemp -d)
trap 'rm -rf "$pipes"' EXIT
mkfifo "$pipes/console" "$pipes/messages"

lines() {
    while IFS= read -r line || [ -n "$line" ]; do printf '%s\n' "$line" >>"$2"; done <"$1"
}
lines "$pipes/console" "$out/guest-console.log" &
console=$!
lines "$pipes/messages" "$out/right.log" &
messages=$!
status=0
"$@" </dev/null >"$pipes/console" 2>"$pipes/messages" || status=$?
wait "$console" "$messages" || true
exit "$status"
