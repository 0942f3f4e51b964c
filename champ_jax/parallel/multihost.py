"""Several processes as one JAX program: TPU pods, SLURM jobs, or processes started by hand."""

import hashlib
import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from champ_jax.errors import UserError

# For processes started by hand: address host:port of the first one, how many there are, and which one this is.
COORDINATOR, COUNT, INDEX = "CHAMP_COORDINATOR", "CHAMP_PROCESSES", "CHAMP_PROCESS"
TIMEOUT_SECONDS = 120


def initialise() -> None:
    """Joins the other processes; to be called before anything touches a device.

    The three CHAMP_* variables count when they are set; otherwise JAX finds the others through SLURM, Open MPI,
    Kubernetes or the TPU's metadata.

    Raises:
      UserError: variables missing or wrong, nothing to be found, or the others do not answer within two minutes.
    """
    try:
        jax.distributed.initialize(**_from_environment(), initialization_timeout=TIMEOUT_SECONDS)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot join the other processes: {reason}. Inside a SLURM job or on a TPU pod nothing need be set; "
            f"elsewhere set {COORDINATOR}=host:port, {COUNT} and {INDEX} (from 0), and start all of them."
        ) from error


def _from_environment() -> dict:
    given = {name: os.environ[name] for name in (COORDINATOR, COUNT, INDEX) if name in os.environ}
    if not given:
        return {}
    if len(given) < 3:
        raise ValueError(f"{', '.join(given)} set, but {COORDINATOR}, {COUNT} and {INDEX} go together")
    return {
        "coordinator_address": given[COORDINATOR],
        "num_processes": int(given[COUNT]),
        "process_id": int(given[INDEX]),
    }


def is_first() -> bool:
    """Whether this is the process that writes what there is one of: logs, weights, pictures."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes are here; `name` says where in errors."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def of_first(value: int) -> int:
    """The number that process 0 has, in every process."""
    return int(multihost_utils.broadcast_one_to_all(np.array(value))) if jax.process_count() > 1 else value


def check_same(text: str, what: str) -> None:
    """Raises UserError in every process when `text` differs between them: a run of two configurations would hang."""
    if jax.process_count() == 1:
        return
    own = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint32)
    all_of_them = multihost_utils.process_allgather(own)
    others = [index for index, digest in enumerate(all_of_them) if not np.array_equal(digest, all_of_them[0])]
    if others:
        raise UserError(f"{what} of process {', '.join(map(str, others))} is not that of process 0: start all with the same.")
