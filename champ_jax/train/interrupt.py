"""Ctrl-C and preemption: the loop finishes its step, saves, and says how to go on."""

import signal

RESUMABLE, PREEMPTED = 75, 143


class Stopped(SystemExit):
    """Raised after the state was saved; carries the exit code 75 (interrupted) or 143 (terminated)."""


class StopRequest:
    """Context manager that turns SIGINT and SIGTERM into a flag to be read between steps.

    A second Ctrl-C interrupts at once. Outside the main thread, where signals cannot be caught, it changes nothing.
    """

    def __init__(self):
        self.exit_code = 0
        self._previous = {}

    def __enter__(self):
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
