"""The record of updates that the guard of the step skipped."""

import json
import os
from collections import deque
from pathlib import Path

import jax

from champ_jax.errors import UserError
from champ_jax.evaluate.run_log import SKIPPED
from champ_jax.parallel.multihost import is_first, say
from champ_jax.train.feed import Feed

MOST_IN_ROW, MOST_IN_WINDOW, WINDOW = 20, 50, 1000
"""Skipped updates that end a run: so many in a row, or so many among the last WINDOW."""


class Skips:
    """Writes down the updates that the step's guard skipped, and ends a run that makes none any more."""

    def __init__(self, workdir: Path, feed: Feed):
        name = SKIPPED if is_first() else f"skipped-{jax.process_index()}.jsonl"  # each knows its own samples alone
        self.path, self.feed = workdir / name, feed
        if self.path.is_file():  # an end that a kill cut off would be broken for good once another line follows
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
        self._recent: deque[int] = deque()
        self._unread: tuple[int, dict] | None = None

    def look(self, step: int, metrics: dict) -> None:
        """Takes the figures of a step and reads those of the step before: the devices have this one to do meanwhile.

        A step that was skipped is appended to the file, with the clips of its batch. Raises UserError after too many of them.
        """
        self.look_at_last()
        self._unread = step, metrics

    def look_at_last(self) -> None:
        """Reads the figures of the newest step, waiting for the devices; raises as `look` does."""
        if self._unread is not None:
            self._read(*self._unread)
            self._unread = None

    def _read(self, step: int, metrics: dict) -> None:
        figures = jax.device_get({name: metrics[name] for name in ("loss", "gradient_norm", "skipped_in_row")})
        in_row = int(figures["skipped_in_row"])
        if not in_row:
            return
        clips = self.feed.clips(step - 1)
        line = {"step": step, "loss": float(figures["loss"]), "gradient_norm": float(figures["gradient_norm"]), "clips": clips}
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        say(f"note: step {step} is skipped: loss {line['loss']:.4g}, gradient norm {line['gradient_norm']:.4g}; its clips: {self.path}")
        self._recent.append(step)
        while self._recent[0] <= step - WINDOW:
            self._recent.popleft()
        if in_row >= MOST_IN_ROW or len(self._recent) > MOST_IN_WINDOW:
            raise UserError(
                f"{in_row} updates in a row, and {len(self._recent)} of the last {WINDOW}, were skipped up to step {step}: losses or "
                f"gradients are not finite or far above their average (last loss {line['loss']:.4g}). Look at the clips named in "
                f"{self.path}, or lower config.optim.learning_rate; the newest checkpoint holds the weights from before"
            )
