"""Several processes as one JAX program: TPU pods, SLURM jobs, or processes started by hand."""

import os

import jax

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
