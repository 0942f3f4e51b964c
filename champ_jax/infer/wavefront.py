"""In which order windows are denoised, so that a clip of any length needs the memory of a few windows. Host code.

A window may take its step k once all its frames have taken step k - 1. Always taking the deepest window that may go lets
the steps follow each other through the clip like a wave: the first frames are done when the last have not begun, and only
the frames between lie in memory, in a ring. The result is that of taking each step over the whole clip.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from champ_jax.diffusion.windows import champ_windows, shifted_windows, window_weights


class Plan(NamedTuple):
    """The windows of every step. frames: for each step int [W,n]; weights: f32 [W,n], that sum to 1 over every frame."""

    frames: list[np.ndarray]
    weights: list[np.ndarray]

    @property
    def count(self) -> int:
        """Frames that are denoised."""
        return 1 + max(int(index.max()) for index in self.frames)

    @property
    def passes(self) -> int:
        """Windows of all steps together."""
        return sum(map(len, self.frames))


class Round(NamedTuple):
    """P windows that are denoised at once.

    frames: int [P,n]. weights: f32 [P,n], 0 in rows that only fill up. main: bool [P,n], where this is the window that counts most
    for a frame. step: int [P], counted from 0. advance: [(first, last + 1, step)], frames that have all they need for this step.
    """

    frames: np.ndarray
    weights: np.ndarray
    main: np.ndarray
    step: np.ndarray
    advance: list[tuple[int, int, int]]


def make_plan(frames: int, steps: int, window: int, overlap: int, champ: bool = False, anchor: bool = False) -> Plan:
    """Windows over `frames` for each of `steps`. champ: CHAMP's, which wrap around the end, are never moved, and count alike.
    anchor: see `window_weights`.

    A clip shorter than a window is planned as a whole window, except with champ: give it copies of its last frame.
    """
    if champ:
        index = champ_windows(frames, window, overlap)
        return Plan([np.asarray(index)] * steps, [window_weights(index, "uniform")] * steps)
    each = [shifted_windows(max(frames, window), window, overlap, step) for step in range(steps)]
    return Plan([np.asarray(index) for index in each], [window_weights(index, anchored=anchor) for index in each])


def capacity(steps: int, window: int, overlap: int, rows: int) -> int:
    """Frames that are on their way at once, at most, whatever the length of the clip; `rows` windows are denoised at once."""
    # A step waits when it is less than a window behind the one before it.
    return steps * (window - 1) + 1 + (rows + 1) * (window - overlap)


def rounds(plan: Plan, rows: int, room: int, alike: Sequence[int] | None = None) -> Iterator[Round]:
    """All rounds of a plan in an order that keeps at most `room` frames between the first that is not done and the last begun.

    alike: a number for each step; only windows at steps of the same number go together. None lets all.
    """
    steps, total = len(plan.frames), plan.count
    alike = [0] * steps if alike is None else alike
    firsts = [_firsts(index, total) for index in plan.frames]
    mains = [_mains(index, weights, total) for index, weights in zip(plan.frames, plan.weights)]
    taken = [0] * steps  # windows of each step
    ready = [0] * steps  # frames that have taken each step: all before this one
    while ready[-1] < total:
        before = [min(ready[-1] + room, total), *ready[:-1]]
        chosen: list[tuple[int, int]] = []
        for step in reversed(range(steps)):
            if chosen and alike[step] != alike[chosen[0][0]]:
                continue
            while len(chosen) < rows and taken[step] < len(plan.frames[step]) and plan.frames[step][taken[step]].max() < before[step]:
                chosen.append((step, taken[step]))
                taken[step] += 1
        advance = []
        for step in sorted({step for step, _ in chosen}):
            reached = firsts[step][taken[step]]
            if reached > ready[step]:
                advance.append((ready[step], reached, step))
                ready[step] = reached
        yield _round(plan, mains, chosen, rows, advance)


def _round(plan: Plan, mains, chosen, rows: int, advance) -> Round:
    filled = chosen + [chosen[-1]] * (rows - len(chosen))
    frames = np.stack([plan.frames[step][window] for step, window in filled])
    weights = np.stack([plan.weights[step][window] for step, window in filled])
    weights[len(chosen) :] = 0
    step = np.asarray([step for step, _ in filled])
    main = np.stack([mains[step][index] == window for (step, window), index in zip(filled, frames)]) & (weights > 0)
    return Round(frames, weights, main, step, advance)


def _firsts(frames: np.ndarray, total: int) -> np.ndarray:
    """For each number of windows taken, in order, the first frame that the others still wait for: int [W + 1]."""
    lowest = np.append(frames.min(axis=1), total)
    return np.minimum.accumulate(lowest[::-1])[::-1]


def _mains(frames: np.ndarray, weights: np.ndarray, total: int) -> np.ndarray:
    """Which window counts most for a frame, of equals the first, int [F]."""
    largest = np.zeros(total, np.float32)
    np.maximum.at(largest, frames, weights)
    found = np.full(total, len(frames))
    windows = np.broadcast_to(np.arange(len(frames))[:, None], frames.shape)
    most = weights >= largest[frames]
    np.minimum.at(found, frames[most], windows[most])
    return found
