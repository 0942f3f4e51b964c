"""One run to a folder: a file that names who trains there, and says while it lives that it does."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from champ_jax.errors import WorkdirError
from champ_jax.parallel.multihost import is_first, of_first

NAME = "running.json"
BEAT_SECONDS, DEAD_SECONDS = 5.0, 20.0


class Lock:
    """Context manager that holds `directory` for this process.

    A file with host, process and a count that grows every few seconds. A holder on this host is looked up by its process;
    one on another host is taken for dead when its count stands still, so no two clocks are ever compared. A folder whose
    holder died is taken over.
    Raises WorkdirError on entering when another run is alive there, or nothing can be written.
    """

    def __init__(self, directory: Path):
        self.path = directory / NAME
        self._me = {"host": socket.gethostname(), "process": os.getpid(), "started": _started(os.getpid())}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)

    def __enter__(self):
        try:
            self._take()
        except OSError as error:
            raise WorkdirError(f"cannot write to {self.path.parent}: {error}. Give another --workdir") from error
        self._thread.start()
        return self

    def _take(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._create():
            holder = read(self.path)
            if holder is not None and holder["host"] != self._me["host"]:
                print(f"{self.path.parent} was last used from {holder['host']}: looking whether that run still lives", flush=True)
            if holder is not None and alive(self.path, holder):
                raise WorkdirError(
                    f"{self.path.parent} is in use by process {holder['process']} on {holder['host']}: stop that run, or give "
                    f"another --workdir. If it is none of yours any more, remove {self.path}."
                )
            self.path.unlink(missing_ok=True)

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()
        self.path.unlink(missing_ok=True)

    def _create(self) -> bool:
        """Makes the file unless there is one, in one operation of the file system, so that of two only one can."""
        own = self.path.with_name(f".{NAME}.{self._me['host']}.{self._me['process']}")
        own.write_text(json.dumps({**self._me, "beat": 0}))
        try:
            os.link(own, self.path)
            return True
        except FileExistsError:
            return False
        finally:
            own.unlink()

    def _beat(self) -> None:
        count = 0
        own = self.path.with_name(f".{NAME}.beat")
        while not self._ended.wait(BEAT_SECONDS):
            count += 1
            try:
                own.write_text(json.dumps({**self._me, "beat": count}))
                os.replace(own, self.path)
            except OSError:  # a storage that is away for a while must not end the run
                continue


@contextmanager
def held(workdir: Path) -> Iterator[None]:
    """The lock of a run's folder, held by process 0; refused there, it is refused in every process."""
    refused = None
    with ExitStack() as stack:
        if is_first():
            try:
                stack.enter_context(Lock(workdir))
            except WorkdirError as error:
                refused = error
        if of_first(int(refused is not None)):
            raise refused or WorkdirError(f"{workdir} is in use by another run; process 0 says by which")
        yield


def read(path: Path) -> dict | None:
    """Who holds the lock, or None when nobody does or the file says nothing of use."""
    try:
        holder = json.loads(path.read_text())
        return holder if {"host", "process", "started", "beat"} <= holder.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def alive(path: Path, holder: dict, seconds: float = DEAD_SECONDS) -> bool:
    """Whether the holder still runs; of one on another host its file tells, which is watched for so many seconds."""
    if holder["host"] == socket.gethostname():
        return _started(holder["process"]) == holder["started"] and holder["process"] != os.getpid()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(1.0)
        now = read(path)
        if now is None:
            return False
        if now != holder:
            return True
    return False


def _started(process: int) -> str | None:
    """What tells a process from a later one with the same number, or None when there is none: its start in clock ticks."""
    if not Path("/proc/self/stat").exists():  # macOS
        try:
            os.kill(process, 0)
        except OSError:
            return None
        return "unknown"
    try:
        # The name of the program stands in parentheses and may hold anything: the fields are counted behind it.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
