#!/usr/bin/env bash
# Trains on GKE as a JobSet, with kubectl:
#   launch/gke_jobset.sh apply NAME CONFIG WORKDIR [--config.a.b=value ...]
#   launch/gke_jobset.sh logs NAME          follows the log of the first process
#   launch/gke_jobset.sh delete NAME        ends it; it saves within the grace time of two minutes
#   launch/gke_jobset.sh xpk NAME CONFIG WORKDIR [...]       the same job on TPUs through xpk: CLUSTER, TYPE=v5litepod-256
# TPU slices: ACCELERATOR=tpu-v5-lite-podslice TOPOLOGY=16x16 [CHIPS=4 a host] [SLICES=1]
# GPU nodes:  GPU=nvidia-h100-80gb NODES=4 [GPUS=8 a node]
# Both: IMAGE (launch/Dockerfile makes it); VOLUME=claim of a shared file system, mounted at MOUNT=/mnt/champ, for WORKDIR
# and data; SPOT=1; QUEUE=name of a Kueue queue; RESTARTS=50. DRY_RUN=1 prints the command and the manifest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
usage="usage: launch/gke_jobset.sh apply|logs|delete|xpk NAME [CONFIG WORKDIR --config.a.b=value ...]"
[ "$#" -ge 2 ] || fail "$usage"
verb="$1" name="$2"
shift 2
[[ "$name" =~ ^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$ ]] ||
    fail "NAME '$name': up to 30 lower-case letters, digits and dashes are needed, because host names are made of it."
mount="${MOUNT:-/mnt/champ}" restarts="${RESTARTS:-50}" own_restarts=10 grace=120

needs() {
    local setting
    for setting in "$@"; do
        [ -n "${!setting:-}" ] || fail "$setting is not set: the head of launch/gke_jobset.sh says what it is."
    done
}

has() {
    [ -n "${DRY_RUN:-}" ] || command -v "$1" >/dev/null || fail "$1 is not installed: install it, or set DRY_RUN=1 to see the command."
}

# The words as a JSON list, which YAML reads; Kubernetes would replace $(NAME) in them, $$(NAME) it leaves alone.
json() {
    local word separator=""
    printf '['
    for word in "$@"; do
        word="${word//\\/\\\\}" word="${word//\"/\\\"}" word="${word//\$(/\$\$(}"
        printf '%s"%s"' "$separator" "$word"
        separator=", "
    done
    printf ']'
}

# Sets what differs between TPU slices and GPU nodes.
machines() {
    if [ -n "${TOPOLOGY:-}" ]; then
        needs ACCELERATOR
        local chips="${CHIPS:-4}"
        role=slice replicas="${SLICES:-1}" script=train_tpu_pod.sh resource=google.com/tpu amount="$chips"
        hosts="$((${TOPOLOGY//x/*} / chips))"
        [ "$hosts" -ge 1 ] || fail "TOPOLOGY=$TOPOLOGY has fewer than CHIPS=$chips chips: set CHIPS to the chips of one host."
        selector="cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
                cloud.google.com/gke-tpu-topology: $TOPOLOGY"
    else
        needs GPU NODES
        role=node replicas=1 script=train_gpu.sh resource=nvidia.com/gpu amount="${GPUS:-8}" hosts="$NODES"
        selector="cloud.google.com/gke-accelerator: $GPU"
    fi
    [ -z "${SPOT:-}" ] || selector="$selector
                cloud.google.com/gke-spot: \"true\""
}

# TPU hosts find each other by what GKE sets in their environment; JAX has no such way for GPU nodes without rights to read the
# cluster's API, so these are told. The JobSet gives the first of them this host name.
environment() {
    echo "- {name: RESTARTS, value: \"$own_restarts\"}  # in the pod, also while others still load the image; after them the JobSet's"
    if [ "$role" = slice ]; then
        echo "- {name: SLICES, value: \"$replicas\"}"
    else
        cat <<END
- {name: CHAMP_COORDINATOR, value: "$name-node-0-0.$name:8476"}
- {name: CHAMP_PROCESSES, value: "$hosts"}
- name: CHAMP_PROCESS
  valueFrom: {fieldRef: {fieldPath: "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
- {name: LD_LIBRARY_PATH, value: /usr/local/nvidia/lib64}  # where GKE mounts the driver
END
    fi
    [ -z "${FLAGS:-}" ] || echo "- {name: FLAGS, value: \"$FLAGS\"}"
}

manifest() {
    cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
END
    [ -z "${QUEUE:-}" ] || printf '  labels:\n    kueue.x-k8s.io/queue-name: %s\n' "$QUEUE"
    cat <<END
spec:
  failurePolicy:
    maxRestarts: $restarts  # a preempted node counts too
    rules:
      - {name: stop, action: FailJobSet, onJobFailureReasons: [PodFailurePolicy]}
  replicatedJobs:
    - name: $role
      replicas: $replicas
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          completionMode: Indexed
          backoffLimit: 0  # one pod gone: all start again
          podFailurePolicy:
            rules:  # a failed check, wrong input, an unusable folder, a second Ctrl-C: starting again cannot help
              - {action: FailJob, onExitCodes: {containerName: train, operator: In, values: [1, 2, 78, 130]}}
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: $grace  # for the checkpoint after TERM
              hostNetwork: true
              dnsPolicy: ClusterFirstWithHostNet
              nodeSelector:
                $selector
              tolerations:
                - {key: $resource, operator: Exists, effect: NoSchedule}
                - {key: cloud.google.com/gke-spot, operator: Exists, effect: NoSchedule}
              containers:
                - name: train
                  image: $IMAGE
                  workingDir: /champ_jax
                  command: $(json "launch/$script" "$@")
                  env:
$(environment | sed 's/^/                    /')
                  resources: {limits: {$resource: $amount}}
                  volumeMounts:
                    - {name: work, mountPath: $mount}
                    - {name: memory, mountPath: /dev/shm}
              volumes:
                - {name: work, persistentVolumeClaim: {claimName: $VOLUME}}
                - {name: memory, emptyDir: {medium: Memory}}
END
}

apply() {
    needs IMAGE VOLUME
    machines
    if [ -n "${DRY_RUN:-}" ]; then
        echo "kubectl apply -f - <<'END'"
        manifest "$@"
        echo END
    else
        manifest "$@" | kubectl apply -f -
    fi
}

with_xpk() {
    needs IMAGE CLUSTER
    run xpk workload create "--cluster=$CLUSTER" "--workload=$name" "--tpu-type=${TYPE:-v5litepod-256}" \
        "--num-slices=${SLICES:-1}" "--docker-image=$IMAGE" "--max-restarts=$restarts" --restart-on-exit-codes=75 \
        "--termination-grace-period-seconds=$grace" \
        "--command=cd /champ_jax && RESTARTS=$own_restarts SLICES=${SLICES:-1} launch/train_tpu_pod.sh $(quoted "$@")"
}

case "$verb" in
    apply | xpk) [ "$#" -ge 2 ] || fail "$usage" ;;
esac
case "$verb" in
    apply) has kubectl && apply "$@" ;;
    xpk) has xpk && with_xpk "$@" ;;
    logs)
        has kubectl
        run kubectl logs --follow --tail=100 \
            "--selector=jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0"
        ;;
    delete) has kubectl && run kubectl delete jobset "$name" ;;
    *) fail "no such action: $verb. $usage" ;;
esac
