#!/usr/bin/env bash
# Trains on a TPU pod slice. On every host, with the same arguments:
#   ./launch/train_tpu_pod.sh CONFIG WORKDIR [--config.a.b=value ...]
# which is, from your own machine:
#   gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker=all \
#     --command "cd champ_jax && ./launch/train_tpu_pod.sh CONFIG WORKDIR"
# WORKDIR must be on storage that all hosts share (a mounted bucket or Filestore).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ "$#" -ge 2 ] || fail "usage: launch/train_tpu_pod.sh CONFIG WORKDIR [--config.a.b=value ...]"
ensure_venv tpu

config="$1" workdir="$2"
shift 2
exec champ-jax train --multihost --config "$config" --workdir "$workdir" "$@"
