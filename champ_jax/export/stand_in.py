"""NumPy where the code of music features says JAX: what `onnx_dance.py` is given in its place, so that it needs no JAX.

Only what champ_jax.audio uses; results differ in their last bits.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray


class jnp:
    """`jax.numpy`, as NumPy."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def matmul(self, x: np.ndarray, y: np.ndarray, precision: Any = None) -> np.ndarray:
        """[...,N,K] times [K,M] -> [...,N,M]."""
        return np.matmul(x, y)

    def einsum(self, *arguments: Any, precision: Any = None) -> np.ndarray:
        """As `np.einsum`, of arrays of any shape."""
        return np.einsum(*arguments)


class lax:
    """`jax.lax`."""

    class Precision:
        """Products are in full precision anyway."""

        HIGHEST = None

    @staticmethod
    def map(function: Callable, x: np.ndarray) -> tuple[np.ndarray, ...]:
        """What a function of one x gives, for each of x [K,...]: a tuple of arrays [K,...]."""
        return tuple(np.stack(parts) for parts in zip(*map(function, x)))

    @staticmethod
    def top_k(x: np.ndarray, count: int) -> tuple[np.ndarray, None]:
        """The largest `count` of the last axis, [...,N] -> [...,count], falling, without their places."""
        return -np.sort(-x, axis=-1)[..., :count], None


def jit(function=None, **options: Any):
    """The function as it is."""
    return function if function is not None else lambda function: function


def device_get(values: Any) -> Any:
    """The values, which are on the host already."""
    return values


jnp = jnp()
