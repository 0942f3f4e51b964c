"""Ctrl-C and preemption: the loop finishes its step, saves, and says how to go on."""

import signal

import jax
from jax.experimental import multihost_utils

from champ_jax.errors import PREEMPTED, RESUMABLE


class Stopped(SystemExit):
    """Raised after the state was saved; carries the exit code 75 (interrupted) or 143 (terminated)."""


class StopRequest:
    """Context manager that turns SIGINT and SIGTERM into a flag to be read between steps.

    A second Ctrl-C interrupts at once. Outside the main thread, where signals cannot be caught, it changes nothing. With
    several processes a termination signal to any of them stops all at the same step, by JAX's own agreement.
    """

    def __init__(self):
        self.exit_code = 0
        self._previous = {}
        self._calls = 0

    def asked(self) -> int:
        """The exit code to stop with after this step, the same in every process, or 0; to be called once a step."""
        if jax.process_count() == 1:
            return self.exit_code
        # Counted from 0 in every life of a run: JAX expects that, or a signal before the first call would be lost.
        self._calls += 1
        return PREEMPTED if multihost_utils.reached_preemption_sync_point(self._calls - 1) else 0

    def __enter__(self):
        if jax.process_count() > 1:
            return self
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        except ValueError:
            self._previous.clear()
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        if self.exit_code and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.exit_code = RESUMABLE if number == signal.SIGINT else PREEMPTED
