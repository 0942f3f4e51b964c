#!/usr/bin/env bash
# Trains on all GPUs of this machine: ./launch/train_gpu.sh CONFIG WORKDIR [--config.a.b=value ...]
# One process drives all GPUs. It is started again after a crash or hang; stopped with Ctrl-C it saves, and the same command
# goes on from there. Several machines without a scheduler: start it on each with CHAMP_COORDINATOR=host:port of the first,
# CHAMP_PROCESSES=how many and CHAMP_PROCESS=0, 1, ... DRY_RUN=1 prints the command.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ "$#" -ge 2 ] || fail "usage: launch/train_gpu.sh CONFIG WORKDIR [--config.a.b=value ...]"
if [ -z "${DRY_RUN:-}" ] && ! command -v nvidia-smi >/dev/null && [ ! -e /dev/nvidiactl ]; then
    fail "no NVIDIA driver here (neither nvidia-smi nor /dev/nvidiactl): install it, or pass the GPUs to this container."
fi
ensure_venv cuda
use_flags gpu

config="$1" workdir="$2"
shift 2
[ -z "${CHAMP_COORDINATOR:-}" ] || set -- --multihost "$@"
run exec env "${FLAG_SETTINGS[@]}" "$REPO/launch/supervise.sh" \
    "$VENV/bin/champ-jax" train --config "$config" --workdir "$workdir" "$@"
