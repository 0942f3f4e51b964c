#!/usr/bin/env bash
# Trains on all GPUs of this machine: ./launch/train_gpu.sh CONFIG WORKDIR [--config.a.b=value ...]
# One process drives all GPUs. Stopped with Ctrl-C it saves; the same command goes on from there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ "$#" -ge 2 ] || fail "usage: launch/train_gpu.sh CONFIG WORKDIR [--config.a.b=value ...]"
command -v nvidia-smi >/dev/null || fail "no NVIDIA driver here (nvidia-smi is missing)."
ensure_venv cuda

# The first run compiles for minutes, later ones read the result from here.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/champ_jax/compiled}"
config="$1" workdir="$2"
shift 2
exec champ-jax train --config "$config" --workdir "$workdir" "$@"
