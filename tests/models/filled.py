"""Models with random parameters, none of them zero, made without compiling anything."""

import jax
import numpy as np
from flax import nnx

from champ_jax.models.animator import merge, split


def filled(build, seed: int = 0):
    """The model that `build()` describes; matrices keep the variance of what they multiply."""
    graphdef, shapes = split(nnx.eval_shape(build))
    draw = np.random.default_rng(seed).standard_normal

    def fill(leaf):
        scale = np.prod(leaf.shape[:-1]) ** -0.5 if len(leaf.shape) > 1 else 0.1
        return (draw(leaf.shape) * scale + (len(leaf.shape) == 1)).astype(np.float32)

    return merge(graphdef, jax.tree.map(fill, shapes))
