"""Where the wall time of a run goes, a trace of some of it, and the watchdog that ends a run whose time goes nowhere."""

import faulthandler
import os
import statistics
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from champ_jax.errors import RESUMABLE
from champ_jax.parallel.multihost import say

KINDS = ("start", "compile", "training", "input", "checkpoint", "evaluation")
"""Reading weights and data; the first step of every batch shape; waiting for steps, for batches, for saves; validation."""
SHORTEST_SECONDS = {"training": 45.0, "input": 45.0, "checkpoint": 1800.0, "evaluation": 300.0}
"""What each kind may take in any case. A save mostly returns at once, but the one that waits for the disk must not be ended."""
FIRST_SECONDS, FACTOR = 3600.0, 10.0
"""The most that what was never timed may take, and how many medians are too many."""
REMEMBERED = 100


class Timing:
    """Seconds by kind. `with timing("input"): ...` adds to one of `KINDS`; kinds do not nest."""

    def __init__(self):
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._lasted: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._taken = dict(self._seconds)
        self.current: tuple[str, float] | None = None  # read by the watchdog's thread: one assignment changes both

    @contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        """Adds the time inside to `kind`."""
        began = time.monotonic()
        self.current = kind, began
        try:
            yield
        finally:
            lasted = time.monotonic() - began
            self.current = None
            self._seconds[kind] += lasted
            self._lasted[kind].append(lasted)

    def take(self) -> dict[str, float]:
        """Seconds by kind since the last call."""
        new = {kind: self._seconds[kind] - self._taken[kind] for kind in KINDS}
        self._taken = dict(self._seconds)
        return new

    def limit(self, kind: str) -> float:
        """Seconds after which work of this kind counts as hung."""
        lasted = list(self._lasted[kind])
        # The first of a kind may compile; a process cannot know how long.
        if kind not in SHORTEST_SECONDS or len(lasted) < 2:
            return FIRST_SECONDS
        return max(SHORTEST_SECONDS[kind], FACTOR * statistics.median(lasted))


class Profile:
    """A trace of some steps for TensorBoard or Perfetto. A context manager: a run may end within them."""

    def __init__(self, directory: Path, first: int = 0, count: int = 0):
        self.directory, self.first, self.end = directory, first, first + count
        self._begun: int | None = None

    def at(self, step: int) -> None:
        """To be called before each step."""
        if self._begun is None and self.first <= step < self.end:  # a run may go on from within
            self._begun = step
            jax.profiler.start_trace(self.directory)
        elif self._begun is not None and step == self.end:
            self._stop(step - 1)

    def _stop(self, last: int | str) -> None:
        jax.profiler.stop_trace()
        say(f"the trace of steps {self._begun} to {last} is in {self.directory}")
        self._begun = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._begun is not None:
            self._stop("the last")


class Watchdog:
    """A thread that looks at a Timing and, when work outlasts its limit, prints all stacks and exits with 75.

    Waiting for a peer that is alive and hung would never end by itself: collectives have no time limit.
    """

    def __init__(self, timing: Timing, every_seconds: float = 1.0):
        self._timing, self._every = timing, every_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._every):
            current = self._timing.current
            if current is None:
                continue
            kind, began = current
            limit = self._timing.limit(kind)
            if kind != "start" and time.monotonic() - began > limit:  # reading a large set takes what it takes
                give_up(f"{kind} has taken more than {limit:.0f} s: this process, or one that it waits for, hangs")


def give_up(reason: str) -> None:
    """Prints `reason` and the stack of every thread, and ends the process with 75 at once, whatever its threads wait for."""
    print(f"error: {reason}. The stacks follow; the same command goes on from the newest checkpoint.", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    sys.stderr.flush()
    os._exit(RESUMABLE)
