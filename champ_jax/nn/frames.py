"""Convolution over frames, and the views of folded frames that temporal modules need."""

from __future__ import annotations

import jax
from flax import nnx

from champ_jax.nn.layers import kernel_init
from champ_jax.nn.policy import Policy


def frame_conv(width_in: int, width_out: int, rngs: nnx.Rngs, policy: Policy, zero: bool = False, space: int = 1):
    """Returns a convolution over three frames, and space x space cells, [B,F,h,w,width_in] -> [B,F,h,w,width_out].

    Beyond the first and the last frame and the edges there is nothing; `zero` starts it at nothing.
    """
    edge = (space // 2, space // 2)
    return nnx.Conv(
        width_in,
        width_out,
        kernel_size=(3, space, space),
        padding=((1, 1), edge, edge),
        kernel_init=nnx.initializers.zeros if zero else kernel_init,
        dtype=policy.compute,
        param_dtype=policy.param,
        rngs=rngs,
    )


def unfold_frames(x: jax.Array, batch: int) -> jax.Array:
    """[B*F,h,w,C] with B = `batch` -> [B,F,h,w,C]."""
    return x.reshape(batch, -1, *x.shape[1:])


def over_frames(x: jax.Array) -> jax.Array:
    """[B,F,h,w,C] -> the frames of each position, [B*h*w,F,C]."""
    batch, frames, height, width, channels = x.shape
    return x.reshape(batch, frames, height * width, channels).swapaxes(1, 2).reshape(-1, frames, channels)


def to_frames(x: jax.Array, shape: tuple[int, int, int, int], batch: int) -> jax.Array:
    """The inverse of `over_frames`, folded: [B*h*w,F,C] with B = `batch` -> `shape`, [B*F,h,w,C]."""
    return x.reshape(batch, -1, *x.shape[1:]).swapaxes(1, 2).reshape(shape)
