"""A lock for what librosa compiles when it is first used.

numba keeps that on the disk in pairs of files, and two processes that write one pair at once may leave halves that do not fit each
other, with which every later process crashes (github.com/numba/numba/issues/10128).
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Waits until no other process of this user is inside."""
    with open(Path(tempfile.gettempdir()) / f"champ_jax-librosa-{os.getuid()}.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
