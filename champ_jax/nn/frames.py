"""Convolution over frames, and the view of folded frames that it needs."""

from __future__ import annotations

import jax
from flax import nnx

from champ_jax.nn.layers import kernel_init
from champ_jax.nn.policy import Policy


def frame_conv(width_in: int, width_out: int, rngs: nnx.Rngs, policy: Policy, zero: bool = False):
    """Returns a convolution over three frames at each position, [B,F,h,w,width_in] -> [B,F,h,w,width_out].

    Beyond the first and the last frame there is nothing; `zero` starts it at nothing.
    """
    return nnx.Conv(
        width_in,
        width_out,
        kernel_size=(3, 1, 1),
        padding=((1, 1), (0, 0), (0, 0)),
        kernel_init=nnx.initializers.zeros if zero else kernel_init,
        dtype=policy.compute,
        param_dtype=policy.param,
        rngs=rngs,
    )


def unfold_frames(x: jax.Array, batch: int) -> jax.Array:
    """[B*F,h,w,C] with B = `batch` -> [B,F,h,w,C]."""
    return x.reshape(batch, -1, *x.shape[1:])
