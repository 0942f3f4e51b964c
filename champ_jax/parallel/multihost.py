"""Several processes as one JAX program: TPU pods, SLURM jobs, or processes started by hand."""

import faulthandler
import hashlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from champ_jax.errors import FAILED, INTERRUPTED, RESUMABLE, WRONG_INPUT, UserError

# For processes started by hand: address host:port of the first one, how many there are, and which one this is.
COORDINATOR, COUNT, INDEX = "CHAMP_COORDINATOR", "CHAMP_PROCESSES", "CHAMP_PROCESS"
TIMEOUT_SECONDS = 50
HEARTBEAT_SECONDS = 30
"""After so long without a sign of life of one process JAX ends all the others (by itself after 100)."""
LEAVING_SECONDS = 10
LOSSES = ("gloo", "nccl", "coordination", "heartbeat", "unavailable", "deadline_exceeded", "connection reset", "connection closed")
"""Words of errors that say that another process went away."""


class Unreachable(UserError):
    """The other processes cannot be reached; when they are only late, starting again helps."""

    exit_code = RESUMABLE


def initialise() -> None:
    """Joins the other processes; to be called before anything touches a device.

    The three CHAMP_* variables count when they are set; otherwise JAX finds the others through SLURM, Open MPI,
    Kubernetes or the TPU's metadata.

    Raises:
      UserError: variables missing or wrong, nothing to be found.
      Unreachable: the first process does not answer within a minute, or its port is taken.
    """
    # When the first process dies, JAX aborts the others from a thread of its own: then their stacks are printed at least.
    faulthandler.enable()
    try:
        given = _from_environment()
        if given:
            _check_address(given["coordinator_address"], first=given["process_id"] == 0)
        jax.distributed.initialize(
            **given,
            initialization_timeout=TIMEOUT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=LEAVING_SECONDS,
        )
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
        # Otherwise SLURM's variables, where there are any, would still decide which GPUs this process may use.
        "cluster_detection_method": "deactivate",
    }


def _check_address(address: str, first: bool) -> None:
    """Raises Unreachable unless the first process can listen there, or the others can connect to it: JAX would only abort."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{COORDINATOR}={address}: expected host:port")
    if first:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that a dead run left behind is free
            try:
                probe.bind(("", int(port)))
            except OSError as error:
                raise Unreachable(f"port {port} of this machine cannot be used: {error}. Choose another in {COORDINATOR}") from error
        return
    end = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise Unreachable(
                    f"process 0 does not answer at {COORDINATOR}={address} after {TIMEOUT_SECONDS} s: {error}. Is the address that of "
                    "the machine with process 0, does it run there, and does the network let the port through?"
                ) from error
        time.sleep(1)


@contextmanager
def joined() -> Iterator[None]:
    """Joins the other processes for what is inside, and ends this process after it, with the exit code that fits.

    Python's own way out waits minutes for processes that will never come: one that failed alone must leave, so that the
    others notice. A lost peer is 75, since all of them can go on from the newest checkpoint; UserErrors have their own.
    """
    initialise()
    code = 0
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except SystemExit as error:
        code = error.code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and not lost_peer(error):  # a full disk, as in cli/main.py
            print(f"error: {error}", file=sys.stderr)
            code = WRONG_INPUT
        else:
            traceback.print_exc()
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            code = RESUMABLE if lost_peer(error) else FAILED
    leave(code)


def lost_peer(error: Exception) -> bool:
    """Whether an error says that another process went away."""
    return any(word in str(error).lower() for word in LOSSES)


def leave(code: int) -> None:
    """Ends this process within LEAVING_SECONDS, with the others if they are leaving too."""
    sys.stdout.flush()
    sys.stderr.flush()
    shutdown = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    shutdown.start()
    shutdown.join(LEAVING_SECONDS)
    os._exit(code)


def is_first() -> bool:
    """Whether this is the process that writes what there is one of: logs, weights, pictures."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line, once for all processes."""
    if is_first():
        print(text, flush=True)


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
