"""Weights as 8-bit integers with one scale an output channel: a quarter of float32's bytes."""

import numpy as np


def to_int8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A kernel [...,C], output channels last, as int8 [...,C] in -127..127 and scales f32 [C]: weight = values * scale.

    Symmetric and rounded to nearest, so zero stays zero and no value is off by more than half a scale.
    """
    weight = np.asarray(weight, np.float32)
    peak = np.abs(weight).max(axis=tuple(range(weight.ndim - 1)))
    scale = np.where(peak > 0, peak / 127, 1.0).astype(np.float32)
    return np.round(weight / scale).astype(np.int8), scale
