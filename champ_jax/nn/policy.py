"""In which precision a model computes and stores its parameters."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class Policy:
    """The precision of a whole model, passed down to each of its layers.

    Statistics of norms, softmax, sinusoids, losses and the noise schedule are float32 whatever this says.

    Attributes:
      compute: dtype of activations and matrix products; parameters of any dtype are cast to it where they are used.
      param: dtype in which new parameters are created.
    """

    compute: DTypeLike = jnp.float32
    param: DTypeLike = jnp.float32
