"""Random keys for new parameters."""

from __future__ import annotations

import jax


class ParamKeys:
    """A new key at every call of `params()`, all of one seed: what a constructor's `rngs` is asked for.

    It stands in for `nnx.Rngs`, whose counter is a traced variable: describing a full-size model through it takes
    minutes, because each key drawn walks the whole trace so far. This one counts in Python.
    """

    def __init__(self, seed: int):
        self._key = jax.random.key(seed)
        self._count = 0

    def params(self) -> jax.Array:
        """The next key, a scalar of a key dtype."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count)
