"""Weights and inputs that depend on a name and a shape alone, the same in every environment.

Reference outputs can then be committed without the weights that made them. `RandomState` is used because NumPy has
frozen its streams.
"""

import zlib

import numpy as np


def seeded(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """float32 normal numbers for an input, or for a weight that `seeded_state` scales."""
    draw = np.random.RandomState(zlib.crc32(f"{seed}/{name}".encode()))
    return draw.standard_normal(shape).astype(np.float32)


def seeded_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict of PyTorch with these names and shapes, scaled so that no layer's output dies or explodes.

    Matrices and kernels keep the variance of what they multiply; vectors named weight are near 1, other vectors near 0,
    running variances between 0.5 and 1.5, counters 0.
    """
    state = {}
    for name, shape in shapes.items():
        noise = seeded(name, shape, seed)
        if name.endswith("num_batches_tracked"):
            state[name] = np.zeros(shape, np.int64)
        elif name.endswith("running_var"):
            state[name] = np.float32(0.5) + np.abs(np.tanh(noise))
        elif len(shape) >= 2:
            state[name] = noise * np.float32(np.prod(shape[1:]) ** -0.5)
        else:
            state[name] = np.float32(0.1) * noise + np.float32(name.endswith("weight"))
    return state
