#!/usr/bin/env bash
# Trains with N processes on this machine that find each other over loopback, as hosts of a pod do:
#   launch/local_cluster.sh N CONFIG WORKDIR [--config.a.b=value ...]
# For trying out multi-host training without a pod. DEVICES=4 gives each process so many fake CPU devices.
# It exits with the first status that is not 0; Ctrl-C and TERM go to all processes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ "$#" -ge 3 ] || fail "usage: launch/local_cluster.sh N CONFIG WORKDIR [--config.a.b=value ...]"
# An environment that is active already is the one to use.
[ -n "${VIRTUAL_ENV:-}" ] || ensure_venv

count="$1" config="$2" workdir="$3"
shift 3
port="$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
export CHAMP_COORDINATOR="127.0.0.1:$port" CHAMP_PROCESSES="$count"
if [ -n "${DEVICES:-}" ]; then
  export JAX_PLATFORMS=cpu XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
fi

pids=()
for ((index = 0; index < count; index++)); do
  CHAMP_PROCESS="$index" python -m champ_jax train --multihost --config "$config" --workdir "$workdir" "$@" &
  pids+=("$!")
done
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM
status=0
for pid in "${pids[@]}"; do
  # A signal ends `wait` before its process: ask again for the process's own status.
  while kill -0 "$pid" 2>/dev/null; do
    wait "$pid" || { code="$?"; kill -0 "$pid" 2>/dev/null || { [ "$status" -ne 0 ] || status="$code"; }; }
  done
done
exit "$status"
