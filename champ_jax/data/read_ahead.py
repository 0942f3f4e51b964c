"""Batches read ahead by threads that can neither hang the program nor keep it from ending."""

import contextlib
import queue
import threading
import weakref
from collections import deque
from concurrent.futures import Future
from typing import Any

import grain

AHEAD = 4  # batches
STOP_SECONDS = 1.0


class ReadAhead:
    """The batches of `dataset`, by number, where the ones that follow are read while a batch is being used.

    In place of grain's own threads, which a caller must wait for without limit and which keep a process whose storage
    does not answer from ever ending.
    """

    def __init__(self, dataset: grain.MapDataset, threads: int):
        self._dataset = dataset
        self._first, self._ahead = 0, deque[Future]()  # the batches from number `_first` on
        self._jobs = queue.SimpleQueue()
        readers = [threading.Thread(target=_read, args=(dataset, self._jobs), daemon=True) for _ in range(threads)]
        for reader in readers:
            reader.start()
        # Also when the program ends: a thread that is then still inside C++ would take the process down with it.
        weakref.finalize(self, _stop, self._jobs, readers)

    def get(self, number: int, timeout: float) -> dict[str, Any]:
        """Batch `number`; fast if it follows the one before.

        Raises what reading raised, at every call for this number; TimeoutError after `timeout` seconds.
        """
        if number != self._first:
            for future in self._ahead:
                future.cancel()
            self._first, self._ahead = number, deque()
        self._fill()
        batch = self._ahead[0].result(timeout)
        self._ahead.popleft()
        self._first += 1
        self._fill()
        return batch

    def _fill(self) -> None:
        """Has `AHEAD` batches read, as far as there are so many."""
        while len(self._ahead) < AHEAD and self._first + len(self._ahead) < len(self._dataset):
            future = Future()
            self._jobs.put((future, self._first + len(self._ahead)))
            self._ahead.append(future)


def _read(dataset: grain.MapDataset, jobs: queue.SimpleQueue) -> None:
    """A thread's work: reads the batches that are asked for, until it finds None."""
    while (job := jobs.get()) is not None:
        future, number = job
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(dataset[number])
        except BaseException as error:  # whatever it is, who waits for the batch must learn it
            future.set_exception(error)
        del job, future  # or the last batch would stay in memory


def _stop(jobs: queue.SimpleQueue, readers: list[threading.Thread]) -> None:
    """Ends the threads, but waits only a moment for one that is reading."""
    with contextlib.suppress(queue.Empty):
        while True:
            jobs.get_nowait()
    for _ in readers:
        jobs.put(None)
    for reader in readers:
        if reader is not threading.current_thread():
            reader.join(STOP_SECONDS)
