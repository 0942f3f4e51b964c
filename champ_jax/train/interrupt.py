"""Ctrl-C and preemption: the loop finishes its step, saves, and says how to go on."""

import signal

import jax
from jax.experimental import multihost_utils

RESUMABLE, PREEMPTED = 75, 143


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

    def asked(self, step: int) -> int:
        """The exit code to stop with after this step, the same in every process, or 0."""
        if jax.process_count() > 1:
            return PREEMPTED if multihost_utils.reached_preemption_sync_point(step) else 0
        return self.exit_code

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
