"""Weights as 8-bit integers with one scale an output channel: a quarter of float32's bytes."""

import numpy as np

from champ_jax.nn.quantised import to_eight_bits


def to_int8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A kernel [...,C], output channels last, as int8 [...,C] in -127..127 and scales f32 [C]: weight = values * scale."""
    return to_eight_bits(weight, "int8")
