#!/usr/bin/env bash
# Trains with N processes on this machine that find each other over loopback, as hosts of a pod do:
#   launch/local_cluster.sh N CONFIG WORKDIR [--config.a.b=value ...]
# For trying out multi-host training without a pod. DEVICES=4 gives each process so many fake CPU devices.
# When one process fails, the others have GRACE=60 seconds to end by themselves and are killed then. All start again, through
# launch/supervise.sh (RESTARTS=0: never), if they can go on. Ctrl-C and TERM go to all processes as TERM.
# Exit code: the first of 2 and 78, any other failure, 143, 75 (can go on), 0 that one of the processes had.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
usage="usage: launch/local_cluster.sh N CONFIG WORKDIR [--config.a.b=value ...]"
[ "$#" -ge 3 ] || fail "$usage"
[[ "$1" =~ ^[1-9][0-9]*$ ]] || fail "'$1' is not a number of processes. $usage"

# An environment that is active already is the one to use.
# shellcheck disable=SC2119
[ -n "${VIRTUAL_ENV:-}" ] || ensure_venv
if [ -z "${CHAMP_ONE_ATTEMPT:-}${DRY_RUN:-}" ]; then
    export CHAMP_ONE_ATTEMPT=yes PAUSE="${PAUSE:-1}"
    exec "$REPO/launch/supervise.sh" "$REPO/launch/local_cluster.sh" "$@"
fi

count="$1" config="$2" workdir="$3"
shift 3
# A port of its own for each attempt: the last one's may still be held by a process that is being killed.
port=PORT
[ -n "${DRY_RUN:-}" ] || port="$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
settings=("CHAMP_COORDINATOR=127.0.0.1:$port" "CHAMP_PROCESSES=$count")
if [ -n "${DEVICES:-}" ]; then
    settings+=(JAX_PLATFORMS=cpu "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$DEVICES")
fi

# Prints the exit code that says more about the whole: the first failure that is nobody else's consequence.
graver() {
    local code rank best=-1 result=0
    for code in "$@"; do
        case "$code" in
            2 | 78) rank=4 ;;
            143) rank=2 ;;
            0) rank=0 ;;
            *) if resumable "$code"; then rank=1 code=75; else rank=3; fi ;;
        esac
        if [ "$rank" -gt "$best" ]; then best="$rank" result="$code"; fi
    done
    echo "$result"
}

pids=() status=0
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM
for ((index = 0; index < count; index++)); do
    command=(env "${settings[@]}" "CHAMP_PROCESS=$index"
        python -m champ_jax train --multihost --config "$config" --workdir "$workdir" "$@")
    if [ -n "${DRY_RUN:-}" ]; then
        echo "$(quoted "${command[@]}") &"
        continue
    fi
    "${command[@]}" &
    pids+=("$!")
done

deadline=""
while [ "${#pids[@]}" -gt 0 ]; do
    left=()
    for pid in "${pids[@]}"; do
        if kill -0 "$pid" 2>/dev/null; then
            left+=("$pid")
            continue
        fi
        code=0
        wait "$pid" || code="$?"
        status="$(graver "$status" "$code")"
        [ "$code" -eq 0 ] || [ -n "$deadline" ] || deadline="$((SECONDS + ${GRACE:-60}))"
    done
    pids=("${left[@]}")
    if [ "${#pids[@]}" -gt 0 ] && [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ]; then
        echo "local_cluster: ${#pids[@]} of $count processes did not end after another failed: killing them" >&2
        # A stopped process hears nothing but KILL.
        kill -KILL "${pids[@]}" 2>/dev/null || true
    fi
    sleep 0.2 || true
done
exit "$status"
