"""How a clip longer than the model's window is cut into overlapping windows, and how they are blended. Host code."""

from math import ceil, log2

import numpy as np

from champ_jax.errors import UserError


def windows(n: int, size: int, overlap: int) -> list[list[int]]:
    """Frame indices of each window over n frames: all have `size` frames (n if shorter), in order, none wraps.

    Consecutive windows share `overlap` frames; the last is moved back to end at frame n - 1, so it may share more.
    Raises UserError for n < 1 or unless 0 <= overlap < size.
    """
    _check(n, size, overlap)
    if n <= size:
        return [list(range(n))]
    starts = list(range(0, n - size, size - overlap)) + [n - size]
    return [list(range(start, start + size)) for start in starts]


def shifted_windows(n: int, size: int, overlap: int, step: int) -> list[list[int]]:
    """As `windows`, moved from one sampling step to the next, so that no frame is near a window's end in every step.

    The first window stays at frame 0, the last ends at frame n - 1, and those between move by as much as they overlap more
    than they need to; long clips that leave them too little room get one window more, which is at most a tenth.
    """
    _check(n, size, overlap)
    if n <= size:
        return [list(range(n))]
    stride, last = size - overlap, n - size
    count = ceil(last / stride) + 1
    room = (count - 1) * stride - last
    if room < stride // 2 and count >= 10:
        count, room = count + 1, room + stride
    # Multiples of the golden ratio spread evenly however many there are.
    offset = round(step * 0.6180339887 % 1 * min(room, stride - 1))
    starts = sorted({0, *(min(max(i * stride - offset, 0), last) for i in range(1, count))})
    return [list(range(start, start + size)) for start in starts]


def window_weights(frames: list[list[int]], blend: str = "triangular", anchored: bool = False) -> np.ndarray:
    """Weights [windows, size] float32 with which predictions of the windows are averaged; over every frame they sum to 1.

    frames: the windows' frame indices, all of one length. "triangular" falls towards a window's ends; "uniform"
    is CHAMP's plain mean. anchored: windows but the first see frame 0 in the place of their own first frame, for which they
    then count nothing; windows have to overlap.
    """
    size = len(frames[0])
    raw = np.ones((len(frames), size), np.float64)
    if blend == "triangular":
        raw[:] = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1
    elif blend != "uniform":
        raise UserError(f"unknown window blend {blend!r}: expected triangular or uniform")
    index = np.asarray(frames)
    if anchored:
        raw[index[:, 0] > 0, 0] = 0
    total = np.zeros(index.max() + 1)
    np.add.at(total, index, raw)
    return (raw / total[index]).astype(np.float32)


def champ_windows(n: int, size: int, overlap: int, stride: int = 1, step: int = 0, closed_loop: bool = True) -> list[list[int]]:
    """CHAMP's `uniform` context scheduler, to reproduce its videos. Same arguments and errors as `windows`, and
    stride: also use windows of every 2nd, 4th, ... frame, below 2**stride; step: shifts windows from step to step
    (CHAMP always passes 0).

    Indices are taken modulo n, with `closed_loop` off too: the last windows mix the first frames into the end of the
    clip. `windows` does not.
    """
    _check(n, size, overlap)
    if n <= size:
        return [list(range(n))]
    result = []
    for power in range(min(stride, ceil(log2(n / size)) + 1)):
        dilation = 1 << power
        pad = round(n * _ordered_halving(step))
        start = int(_ordered_halving(step) * dilation) + pad
        stop = n + pad + (0 if closed_loop else -overlap)
        for first in range(start, stop, size * dilation - overlap):
            result.append([frame % n for frame in range(first, first + size * dilation, dilation)])
    return result


def _ordered_halving(step: int) -> float:
    """The van der Corput sequence in base 2: 0, 1/2, 1/4, 3/4, ... (the reversed bits of a 64-bit step)."""
    return int(f"{step:064b}"[::-1], 2) / (1 << 64)


def _check(n: int, size: int, overlap: int) -> None:
    if n < 1:
        raise UserError(f"a clip of {n} frames cannot be cut into windows: give at least one frame")
    if not 0 <= overlap < size:
        raise UserError(f"window of {size} frames with overlap {overlap}: overlap must be at least 0 and less than the window")
