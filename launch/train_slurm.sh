#!/usr/bin/env bash
# Trains on GPUs of several machines with SLURM, one process a machine:
#   sbatch --nodes=4 launch/train_slurm.sh CONFIG WORKDIR [--config.a.b=value ...]
# The repository and WORKDIR must be in a file system that all machines share. Make the environment once before:
#   bash -c 'source launch/env.sh && ensure_venv cuda'
# After a crash or hang all processes are started again within the job; two minutes before the time limit they save and the
# job is queued again. DRY_RUN=1 launch/train_slurm.sh CONFIG WORKDIR prints the command, also without SLURM.
#SBATCH --job-name=champ-jax
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
# SLURM runs a copy of this script from its spool folder: the place it was submitted from is the repository.
# shellcheck source=env.sh
source "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}/launch/env.sh"
[ "$#" -ge 2 ] || fail "usage: sbatch launch/train_slurm.sh CONFIG WORKDIR [--config.a.b=value ...]"
if [ -z "${DRY_RUN:-}" ]; then
    [ -n "${SLURM_JOB_ID:-}" ] || fail "this is not a SLURM job: run sbatch launch/train_slurm.sh in the repository, or set DRY_RUN=1."
    [ -x "$VENV/bin/champ-jax" ] || fail "make the environment first: bash -c 'source launch/env.sh && ensure_venv cuda'"
fi
use_flags gpu

config="$1" workdir="$2"
shift 2
# JAX gives a SLURM task one GPU unless it is told that the task drives all of the machine's.
gpus="${SLURM_GPUS_ON_NODE:-8}"
JAX_LOCAL_DEVICE_IDS="$(seq -s, 0 "$((gpus - 1))")"
# When one process fails, SLURM ends the others, and srun's own exit code may be that of one of those: the first one counts,
# and each task writes its code here unless another was faster. The shell round a task outlives TERM, or SLURM would take
# the task for ended while it saves.
CODE_FILE="$REPO/.slurm-${SLURM_JOB_ID:-JOB}.code"
# shellcheck disable=SC2016
task='trap : TERM INT; "$@"; code=$?; [ $code -eq 0 ] || (set -C; echo $code >"$CODE_FILE") 2>/dev/null; exit $code'

# The batch shell, too, waits for the end of the training when it is signalled.
trap : TERM
status=0
run env "${FLAG_SETTINGS[@]}" "JAX_LOCAL_DEVICE_IDS=$JAX_LOCAL_DEVICE_IDS" "CODE_FILE=$CODE_FILE" "$REPO/launch/supervise.sh" \
    srun --kill-on-bad-exit=1 bash -c "$task" task \
    "$VENV/bin/champ-jax" train --multihost --config "$config" --workdir "$workdir" "$@" || status="$?"
# TERM came because the time is over: the loop has saved. A job that somebody cancelled is not RUNNING any more.
if [ "$status" -eq 143 ] && [ "$(squeue -h -o %T -j "$SLURM_JOB_ID")" = RUNNING ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
