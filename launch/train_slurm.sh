#!/usr/bin/env bash
# Trains on GPUs of several machines with SLURM, one process a machine:
#   sbatch --nodes=4 launch/train_slurm.sh CONFIG WORKDIR [--config.a.b=value ...]
# The repository and WORKDIR must be on storage that all machines share. Make the environment once before:
#   bash -c 'source launch/env.sh && ensure_venv cuda'
#SBATCH --job-name=champ-jax
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
# SLURM runs a copy of this script from its spool folder: the place it was submitted from is the repository.
source "${SLURM_SUBMIT_DIR:?run this with sbatch, in the repository}/launch/env.sh"
[ "$#" -ge 2 ] || fail "usage: sbatch launch/train_slurm.sh CONFIG WORKDIR [--config.a.b=value ...]"
[ -x "$VENV/bin/champ-jax" ] || fail "make the environment first: bash -c 'source launch/env.sh && ensure_venv cuda'"

config="$1" workdir="$2"
shift 2
# JAX gives a SLURM task one GPU unless it is told that the task drives all of the machine's.
gpus="${SLURM_GPUS_ON_NODE:-8}"
JAX_LOCAL_DEVICE_IDS="$(seq -s, 0 $((gpus - 1)))"
export JAX_LOCAL_DEVICE_IDS
# TERM comes two minutes before the end: the loop saves and exits with 143, and SLURM queues the job again.
srun --kill-on-bad-exit=0 "$VENV/bin/champ-jax" train --multihost --config "$config" --workdir "$workdir" "$@" && exit 0
status=$?
if [ "$status" -eq 143 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
