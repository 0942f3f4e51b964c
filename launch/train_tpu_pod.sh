#!/usr/bin/env bash
# Trains on a TPU slice, or several. On every host, with the same arguments (launch/tpu_pod.sh does that):
#   ./launch/train_tpu_pod.sh CONFIG WORKDIR [--config.a.b=value ...]
# Each host starts its process again after a crash or hang: JAX ends all processes when one is gone, and they meet anew.
# WORKDIR must be in a file system that all hosts share: docs/launch.md says which work. SLICES=2 adds the XLA flags for
# several slices. DRY_RUN=1 prints the command.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ "$#" -ge 2 ] || fail "usage: launch/train_tpu_pod.sh CONFIG WORKDIR [--config.a.b=value ...]"
ensure_venv tpu

# GKE says in MEGASCALE_NUM_SLICES how many slices there are.
if [ "${SLICES:-${MEGASCALE_NUM_SLICES:-1}}" -gt 1 ]; then
    use_flags tpu slices
else
    use_flags tpu
fi

config="$1" workdir="$2"
shift 2
run exec env "${FLAG_SETTINGS[@]}" "$REPO/launch/supervise.sh" \
    "$VENV/bin/champ-jax" train --multihost --config "$config" --workdir "$workdir" "$@"
