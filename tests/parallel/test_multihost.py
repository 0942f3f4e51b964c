"""Who a process is, from the environment that each kind of cluster gives it: JAX's own detectors, and our variables.

The names and values are those of SLURM, Google Cloud and JobSet; nothing is contacted.
"""

import os
import socket
import sys

import jax
import pytest
from jax._src import clusters
from jax._src.clusters import cloud_tpu_cluster, cluster

from champ_jax.errors import UserError
from champ_jax.parallel import multihost

PREFIXES = ("SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "MEGASCALE_", "CHAMP_", "JAX_COORDINATOR", "JOB_COMPLETION")


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    """This machine is in no cluster, whatever runs the tests."""
    for name in list(os.environ):
        if name.startswith(PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.0.0.1")


def found(monkeypatch, **environment) -> tuple:
    """(coordinator, processes, index, devices of this process) as `jax.distributed.initialize()` would take them."""
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    return clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 1)


@pytest.fixture
def on_tpu(monkeypatch):
    """A host with TPU chips and libtpu."""
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cluster, "running_in_cloud_tpu_vm", True)


def test_no_cluster(monkeypatch):
    assert found(monkeypatch) == (None, None, None, None)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu007", "gpu007"), ("gpu[007-010,012]", "gpu007"), ("gpu[3,5]", "gpu3"), ("a1,b[1-2]", "a1")],
)
def test_slurm(monkeypatch, nodes, first):
    """What `srun` of launch/train_slurm.sh gives task 2 of 4, one a node."""
    coordinator, count, index, devices = found(
        monkeypatch, SLURM_JOB_ID=1234, SLURM_STEP_NODELIST=nodes, SLURM_NTASKS=4, SLURM_PROCID=2, SLURM_LOCALID=0
    )
    assert (coordinator, count, index) == (f"{first}:{61440 + 1234}", 4, 2)
    assert devices == [0], "JAX gives a task one GPU: launch/train_slurm.sh must set JAX_LOCAL_DEVICE_IDS"


def test_the_batch_shell_of_slurm_is_no_task(monkeypatch):
    assert found(monkeypatch, SLURM_JOB_ID=1234, SLURM_NTASKS=4) == (None, None, None, None)


@pytest.mark.parametrize("endpoints", ["10.0.0.5,10.0.0.6", "w0:1:10.0.0.5,w1:2:10.0.0.6"])
@pytest.mark.parametrize(("slices", "process"), [(1, 1), (2, 3)])
def test_cloud_tpu(monkeypatch, on_tpu, endpoints, slices, process):
    """Host 1 of 2, of the last of `slices` slices; the metadata of the machine says so."""
    tpu_env = "ACCELERATOR_TYPE: 'v5litepod-8'\n"
    if slices > 1:
        tpu_env += f"MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.3:8080'\nMEGASCALE_NUM_SLICES: '{slices}'\nMEGASCALE_SLICE_ID: '1'\n"
    metadata = {"agent-worker-number": "1", "worker-network-endpoints": endpoints, "tpu-env": tpu_env}
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: (metadata[key], 200))
    coordinator = "10.0.0.3:8482" if slices > 1 else "10.0.0.5:8482"
    assert found(monkeypatch) == (coordinator, 2 * slices, process, None)


def test_jobset_of_tpu_slices(monkeypatch, on_tpu):
    """GKE sets these in pods that ask for google.com/tpu, and its machines have no metadata of a TPU VM."""
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: ("", 404))
    names = "big-slice-1-0.big,big-slice-1-1.big"
    assert found(
        monkeypatch, KUBERNETES_SERVICE_HOST="10.4.0.1", TPU_WORKER_ID=1, TPU_WORKER_HOSTNAMES=names,
        MEGASCALE_COORDINATOR_ADDRESS="big-slice-0-0.big", MEGASCALE_NUM_SLICES=2, MEGASCALE_SLICE_ID=1,
    ) == ("big-slice-0-0.big:8482", 4, 3, None)  # fmt: skip


def test_jobset_of_gpu_nodes_cannot_be_detected(monkeypatch):
    """It takes the `kubernetes` package and rights to read pods: launch/gke_jobset.sh sets the CHAMP variables instead."""
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.warns(UserWarning, match="kubernetes"):
        assert found(monkeypatch, KUBERNETES_SERVICE_HOST="10.4.0.1", JOB_COMPLETION_INDEX=1) == (None, None, None, None)


def initialised(monkeypatch) -> dict:
    """What `multihost.initialise` gives to JAX."""
    given = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: given.update(arguments))
    multihost.initialise()
    return given


def test_our_variables(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for name, value in {"CHAMP_COORDINATOR": address, "CHAMP_PROCESSES": "4", "CHAMP_PROCESS": "0"}.items():
        monkeypatch.setenv(name, value)
    given = initialised(monkeypatch)
    assert (given["coordinator_address"], given["num_processes"], given["process_id"]) == (address, 4, 0)


def test_without_our_variables_jax_looks_for_itself(monkeypatch):
    given = initialised(monkeypatch)
    assert not {"coordinator_address", "num_processes", "process_id"} & {name for name in given if given[name] is not None}


@pytest.mark.parametrize("given", [{"CHAMP_COORDINATOR": "a:1"}, {"CHAMP_PROCESSES": "2", "CHAMP_PROCESS": "0"}])
def test_some_of_our_variables_are_not_enough(monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="go together"):
        initialised(monkeypatch)


def late(monkeypatch, address: str, index: int):
    """What process `index` says of an address."""
    monkeypatch.setattr(multihost, "TIMEOUT_SECONDS", 1)
    for name, value in {"CHAMP_COORDINATOR": address, "CHAMP_PROCESSES": "2", "CHAMP_PROCESS": str(index)}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        initialised(monkeypatch)
    return error.value


def test_a_port_that_is_taken(monkeypatch):
    """Row 29: JAX itself ends with a segmentation fault."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        error = late(monkeypatch, f"127.0.0.1:{port}", 0)
    assert f"port {port} of this machine cannot be used" in str(error) and error.exit_code == 75


def test_nobody_at_the_address(monkeypatch):
    """Row 29: JAX itself aborts after a minute."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    error = late(monkeypatch, address, 1)
    assert f"process 0 does not answer at CHAMP_COORDINATOR={address}" in str(error) and error.exit_code == 75


def test_an_address_without_a_port(monkeypatch):
    assert "expected host:port" in str(late(monkeypatch, "gpu7", 1))
