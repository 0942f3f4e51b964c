#!/usr/bin/env bash
# Runs a command and starts it again when it ends in a way that it can go on from:
#   launch/supervise.sh COMMAND [ARGUMENT ...]
# Restarted: exit codes 75, 134, 137 and 139. Everything else is passed on: 0 done, 2 wrong input, 78 unusable folder, 143
# saved because the machine goes away. INT and TERM go to the command as TERM, and it is not started again.
# Settings: RESTARTS=20 at most in a row (0: never); a run of STEADY=1800 seconds counts as a fresh start; PAUSE=10 seconds
# between two starts. The command finds in CHAMP_RESTARTED how often it was started again. CODE_FILE=file: when the
# command leaves a number there, it counts instead of the exit code.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ "$#" -ge 1 ] || fail "usage: launch/supervise.sh COMMAND [ARGUMENT ...]"

limit="${RESTARTS:-20}" pause="${PAUSE:-10}" steady="${STEADY:-1800}"
child="" stopped="" interrupted="" code=0 restarts=0
export CHAMP_RESTARTED=0

stop() {
    stopped=yes interrupted=yes
    [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true
}
trap stop INT TERM

# Runs the command to its end and leaves its exit code in `code`.
attempt() {
    local status
    [ -z "${CODE_FILE:-}" ] || rm -f "$CODE_FILE"
    "$@" &
    child="$!" code=127
    [ -z "$stopped" ] || kill -TERM "$child" 2>/dev/null || true
    # A signal to this script ends `wait` before the command ended: ask again.
    while :; do
        interrupted="" status=0
        wait "$child" 2>/dev/null || status="$?"
        [ "$status" -eq 127 ] || code="$status"
        [ -n "$interrupted" ] || break
    done
    child=""
    if [ -s "${CODE_FILE:-}" ]; then
        code="$(cat "$CODE_FILE")"
        rm -f "$CODE_FILE"
    fi
}

while :; do
    begun="$SECONDS"
    attempt "$@"
    resumable "$code" || exit "$code"
    [ -z "$stopped" ] || exit "$code"
    [ "$((SECONDS - begun))" -lt "$steady" ] || restarts=0
    if [ "$restarts" -ge "$limit" ]; then
        [ "$limit" -eq 0 ] || echo "supervise: ended with $code after $restarts restarts in a row: giving up" >&2
        exit "$code"
    fi
    restarts="$((restarts + 1))" CHAMP_RESTARTED="$((CHAMP_RESTARTED + 1))"
    echo "supervise: ended with $code, from which it can go on: restart $restarts of $limit in $pause s" >&2
    sleep "$pause" &
    child="$!"
    wait "$child" || true
    child=""
    [ -z "$stopped" ] || exit "$code"
done
