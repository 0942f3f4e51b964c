"""Convolution over frames, and the views of folded frames that temporal modules need."""

from __future__ import annotations

import jax
from einops import rearrange
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


def fold_frames(x: jax.Array) -> jax.Array:
    """[B,F,h,w,C] -> [B*F,h,w,C]."""
    return rearrange(x, "b f h w c -> (b f) h w c")


def unfold_frames(x: jax.Array, batch: int) -> jax.Array:
    """The inverse of `fold_frames`: [B*F,h,w,C] with B = `batch` -> [B,F,h,w,C]."""
    return rearrange(x, "(b f) h w c -> b f h w c", b=batch)


def over_frames(x: jax.Array) -> jax.Array:
    """[B,F,h,w,C] -> the frames of each position, [B*h*w,F,C]."""
    return rearrange(x, "b f h w c -> (b h w) f c")


def to_frames(x: jax.Array, shape: tuple[int, int, int, int], batch: int) -> jax.Array:
    """The inverse of `over_frames`, folded: [B*h*w,F,C] with B = `batch` -> `shape`, [B*F,h,w,C]."""
    return rearrange(x, "(b h w) f c -> (b f) h w c", b=batch, h=shape[1])
