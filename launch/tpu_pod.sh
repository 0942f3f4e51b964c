#!/usr/bin/env bash
# Cloud TPU slices, from your own machine, with gcloud:
#   launch/tpu_pod.sh create NAME                                            asks for the slices (a queued resource)
#   launch/tpu_pod.sh status NAME                                            ACTIVE when they are there
#   launch/tpu_pod.sh run NAME CONFIG WORKDIR [--config.a.b=value ...]       copies this commit, trains on all hosts
#   launch/tpu_pod.sh logs NAME                                              follows the log of host 0 (WORKER=all: of all)
#   launch/tpu_pod.sh stop NAME                                              saves and ends the training
#   launch/tpu_pod.sh delete NAME                                            gives the slices back
# Settings: ZONE; TYPE=v5litepod-256 and VERSION=v2-alpha-tpuv5-lite for create; SLICES=1; SPOT=1 for spot capacity;
# PROJECT; NFS=server:/share to mount at MOUNT=/mnt/champ of all hosts, for WORKDIR. DRY_RUN=1 prints the commands.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
usage="usage: launch/tpu_pod.sh create|status|run|logs|stop|delete NAME [CONFIG WORKDIR --config.a.b=value ...]"
[ "$#" -ge 2 ] || fail "$usage"
verb="$1" name="$2"
shift 2
[ -n "${ZONE:-}" ] || fail "ZONE is not set: ZONE=us-west4-a launch/tpu_pod.sh $verb $name ..."
[ -n "${DRY_RUN:-}" ] || command -v gcloud >/dev/null ||
    fail "gcloud is not installed: install the Google Cloud CLI, or set DRY_RUN=1 to see the commands."

slices="${SLICES:-1}" mount="${MOUNT:-/mnt/champ}"
where=("--zone=$ZONE")
[ -z "${PROJECT:-}" ] || where+=("--project=$PROJECT")
nodes=("$name")
if [ "$slices" -gt 1 ]; then
    nodes=()
    for ((slice = 0; slice < slices; slice++)); do nodes+=("$name-$slice"); done
fi

# on_hosts WORKER COMMAND: runs a line of shell on these hosts of each slice.
on_hosts() {
    local node
    for node in "${nodes[@]}"; do
        run gcloud compute tpus tpu-vm ssh "$node" "${where[@]}" "--worker=$1" "--command=$2"
    done
}

create() {
    local shape=("--node-id=$name")
    [ "$slices" -eq 1 ] || shape=("--node-count=$slices" "--node-prefix=$name")
    [ -z "${SPOT:-}" ] || shape+=(--spot)
    run gcloud compute tpus queued-resources create "$name" "${where[@]}" "--accelerator-type=${TYPE:-v5litepod-256}" \
        "--runtime-version=${VERSION:-v2-alpha-tpuv5-lite}" "${shape[@]}"
}

# Copies the commit to all hosts.
copy() {
    local folder archive node
    [ -z "$(git -C "$REPO" status --porcelain --untracked-files=no)" ] ||
        echo "warning: changes that are not committed stay here" >&2
    folder="$(mktemp -d)" archive=champ_jax.tar.gz
    run git -C "$REPO" archive --format=tar.gz "--output=$folder/$archive" HEAD
    for node in "${nodes[@]}"; do
        run gcloud compute tpus tpu-vm scp "$folder/$archive" "$node:$archive" "${where[@]}" --worker=all
    done
    rm -r "$folder"
    on_hosts all "mkdir -p champ_jax && tar -xzf $archive -C champ_jax"
}

# Python 3.11 and the package on every host, and the shared folder: minutes the first time, with errors shown here.
prepare() {
    local apt="sudo apt-get update -q && sudo apt-get install -qy"
    on_hosts all "command -v python3.11 >/dev/null || { $apt python3.11-venv; }"
    if [ -n "${NFS:-}" ]; then
        on_hosts all "mountpoint -q $mount || { $apt nfs-common && sudo mkdir -p $mount && sudo mount -t nfs -o hard $(quoted "$NFS") $mount; }"
    fi
    on_hosts all "cd champ_jax && bash -c 'source launch/env.sh && ensure_venv tpu'"
}

# Starts the training on all hosts; it goes on when the connection ends.
start() {
    local settings=("SLICES=$slices") setting
    for setting in FLAGS LIBTPU_INIT_ARGS RESTARTS PAUSE STEADY; do
        [ -z "${!setting:-}" ] || settings+=("$setting=${!setting}")
    done
    on_hosts all "if $running; then echo 'error: training runs here already: launch/tpu_pod.sh stop $name first' >&2; exit 2; fi; \
cd champ_jax; nohup env $(quoted "${settings[@]}") ./launch/train_tpu_pod.sh $(quoted "$@") >>../champ_jax.log 2>&1 </dev/null & \
echo \$! >../champ_jax.pid"
    [ -n "${DRY_RUN:-}" ] || echo "started on all hosts: launch/tpu_pod.sh logs $name"
}

# On a host: whether the training that was started last is there.
# shellcheck disable=SC2016
running='ps -o args= -p "$(cat champ_jax.pid 2>/dev/null || echo 0)" 2>/dev/null | grep -q launch/'

case "$verb" in
    create) create ;;
    status) run gcloud compute tpus queued-resources describe "$name" "${where[@]}" "--format=value(state.state)" ;;
    run)
        [ "$#" -ge 2 ] || fail "$usage"
        copy
        prepare
        start "$@"
        ;;
    logs)
        nodes=("${nodes[0]}")
        on_hosts "${WORKER:-0}" "tail -n 100 -F champ_jax.log"
        ;;
    stop) on_hosts all "if $running; then kill -TERM \"\$(cat champ_jax.pid)\"; else echo nothing runs here; fi" ;;
    delete) run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet ;;
    *) fail "no such action: $verb. $usage" ;;
esac
