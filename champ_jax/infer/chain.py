"""Windows of a dance that follow each other. NumPy alone: exported models run it where there is no JAX."""

import numpy as np

from champ_jax.diffusion.windows import windows


def chain_windows(run, music, reference_keypoints, reference_confidence, window, hop) -> tuple[np.ndarray, ...]:
    """Runs `run(music [w,Dm], pose [J,2], confidence [J]) -> (keypoints [w,J,2], confidence [w,J], ...)` along the music.

    Returns each of them for all F frames: weighted means over the windows, which follow each other as in `dance_keypoints`.
    A window's weight is a half sine wave squared: unlike triangles it has no corners, which would show as jerks.
    """
    frames = windows(len(music), window, window - hop)
    totals: list[np.ndarray] = []
    weight = np.zeros(len(music))
    start = reference_keypoints, reference_confidence
    share = np.sin(np.pi * (np.arange(len(frames[0])) + 0.5) / len(frames[0])) ** 2
    for index in frames:
        if index[0] > 0:
            start = tuple(total[index[0]] / weight[index[0]] for total in totals[:2])
        found = run(music[index], *start)
        totals = totals or [np.zeros((len(music), *array.shape[1:])) for array in found]
        for total, array in zip(totals, found, strict=True):
            total[index] += _along(share, array) * array
        weight[index] += share
    return tuple((total / _along(weight, total)).astype(np.float32) for total in totals)


def _along(values: np.ndarray, array: np.ndarray) -> np.ndarray:
    """values [F] in the shape in which they multiply the frames of `array` [F,...]."""
    return values.reshape(-1, *(1,) * (array.ndim - 1))
