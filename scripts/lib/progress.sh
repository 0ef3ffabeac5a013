# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What a person sees while a script works: steps, a sign of life in long ones, files line by line. On stderr. Needs common.sh.

# Most seconds without a word.
: "${PROGRESS_INTERVAL:=10}"
progress_began=$SECONDS

step() { printf '\033[1m==> [%4ds] %s\033[0m\n' "$((SECONDS - progress_began))" "$*" >&2; }
# A line about the present step.
note() { printf '    [%4ds] %s\n' "$((SECONDS - progress_began))" "$*" >&2; }

# latest LOG: what a long command has said last, in short: of cargo how many crates and which one.
latest() {
    local crates last
    crates=$(grep -acE '^ +Compiling ' "$1" 2>/dev/null) || true
    last=$(tail -c 4096 "$1" 2>/dev/null | tr '\r' '\n' | grep -av '^ *$' | tail -n 1 | sed 's/\x1b\[[0-9;?]*[A-Za-z]//g; s/^ *//' | cut -c 1-90) || true
    if [ "${crates:-0}" -gt 0 ]; then
        printf 'crate %s%s; %s' "$crates" "${progress_total:+ of about $progress_total}" "$last"
    else
        printf '%s' "${last:-waiting for its first word}"
    fi
}

# with_progress LOG COMMAND...: runs COMMAND with its output in LOG, and says every PROGRESS_INTERVAL seconds how far it is. When it
# fails, the end of LOG is shown.
with_progress() {
    local log=$1 pid status=0 told=$SECONDS
    shift
    : >"$log"
    ("$@") >"$log" 2>&1 </dev/null &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.5
        if [ $((SECONDS - told)) -ge "$PROGRESS_INTERVAL" ]; then
            note "$(latest "$log")"
            told=$SECONDS
        fi
    done
    wait "$pid" || status=$?
    [ "$status" = 0 ] || tail -n 40 "$log" | sed 's/^/      /' >&2
    return "$status"
}

# follow PID LABEL FILE: shows FILE's lines as they come, each after LABEL, as long as process PID lives; without what moves a cursor.
follow() {
    : >>"$3"
    tail -n +1 -s 0.3 -f --pid="$1" "$3" 2>/dev/null |
        sed -u -e 's/\r//g; s/\x1b[\[][0-9;?=]*[A-Za-z]//g; s/\x1b[()].//g' -e '/^ *$/d' -e "s/^/      $2 | /" \
            -e 's/^\(.\{160\}\).*/\1…/' >&2 &
}

# watch PID COMMAND...: waits for process PID and says every PROGRESS_INTERVAL seconds what COMMAND prints. Its status is PID's.
watch() {
    local pid=$1 status=0 told=$SECONDS
    shift
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.5
        if [ $((SECONDS - told)) -ge "$PROGRESS_INTERVAL" ]; then
            note "$("$@")"
            told=$SECONDS
        fi
    done
    wait "$pid" || status=$?
    return "$status"
}
