"""Temporal modules of our own, to choose beside AnimateDiff's and ModelScope's: each gives its input back at first.

All are called as module(x [B*F,h,w,C], batch=B, seen=None or [B*h*w,F,R]), where `seen` says which frames of a position may read
which, as `attend` takes it: attentions keep people apart by it, convolutions do not. None has a longest window.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.models.unet_config import TemporalConfig
from champ_jax.nn.attention import join_heads, rotate, split_heads
from champ_jax.nn.frames import fold_frames, frame_conv, over_frames, to_frames, unfold_frames
from champ_jax.nn.kernels import attend
from champ_jax.nn.layers import FeedForward, GroupNorm, layer_norm, linear
from champ_jax.nn.policy import Policy


class Conv3D(nnx.Module):
    """norm, SiLU, convolution over 3 frames of 3 x 3 cells, norm, SiLU, convolution over 3 frames (zero at first), + input.

    The norms have each frame's own statistics, so a frame depends on the two before and the two after it alone.
    """

    def __init__(self, width: int, config: TemporalConfig, rngs: nnx.Rngs, policy: Policy):
        """Args: config, of which it has groups."""
        self.norm_1 = GroupNorm(width, config.groups, rngs, policy)
        self.conv_1 = frame_conv(width, width, rngs, policy, space=3)
        self.norm_2 = GroupNorm(width, config.groups, rngs, policy)
        self.conv_2 = frame_conv(width, width, rngs, policy, zero=True)

    def __call__(self, x: jax.Array, batch: int, seen: jax.Array | None = None) -> jax.Array:
        """x [B*F,h,w,C] with B = `batch` -> the same shape."""
        hidden = fold_frames(self.conv_1(unfold_frames(jax.nn.silu(self.norm_1(x)), batch)))
        return x + fold_frames(self.conv_2(unfold_frames(jax.nn.silu(self.norm_2(hidden)), batch)))


class RotaryBlock(nnx.Module):
    """Pre-norm transformer block over frames, whose queries and keys are turned by their frame's number (RoFormer)."""

    def __init__(self, width: int, config: TemporalConfig, rngs: nnx.Rngs, policy: Policy):
        self.heads = config.heads_at(width)
        self.norm = layer_norm(width, rngs, policy)
        self.to_q, self.to_k, self.to_v = (linear(width, width, rngs, policy, bias=False) for _ in range(3))
        self.to_out = linear(width, width, rngs, policy)
        self.norm_ff = layer_norm(width, rngs, policy)
        self.ff = FeedForward(width, config.ff_mult, rngs, policy)

    def __call__(self, x: jax.Array, seen: jax.Array | None) -> jax.Array:
        """x [B*N,F,D] -> [B*N,F,D]."""
        normed = self.norm(x)
        numbers = jnp.arange(x.shape[1], dtype=jnp.float32)
        queries, keys, values = (split_heads(project(normed), self.heads) for project in (self.to_q, self.to_k, self.to_v))
        x = x + self.to_out(join_heads(attend(rotate(queries, numbers), rotate(keys, numbers), values, seen)))
        return x + self.ff(self.norm_ff(x))


class RotaryTransformer(nnx.Module):
    """norm of each frame, proj_in, blocks over the frames of each position, proj_out (zero at first), + input.

    What two frames see of each other depends on how far apart they are, wherever in the window: it goes on working in
    windows longer than those it was trained on.
    """

    def __init__(self, width: int, config: TemporalConfig, rngs: nnx.Rngs, policy: Policy):
        """Args: config, of which it has heads, groups, blocks and ff_mult."""
        self.blocks = config.blocks
        self.norm = GroupNorm(width, config.groups, rngs, policy, epsilon=1e-6)
        self.proj_in = linear(width, width, rngs, policy)
        for i in range(config.blocks):
            setattr(self, f"block_{i}", RotaryBlock(width, config, rngs, policy))
        self.proj_out = linear(width, width, rngs, policy, zero=True)

    def __call__(self, x: jax.Array, batch: int, seen: jax.Array | None = None) -> jax.Array:
        """x [B*F,h,w,C] with B = `batch` -> the same shape."""
        hidden = over_frames(unfold_frames(self.proj_in(self.norm(x)), batch))
        for i in range(self.blocks):
            hidden = getattr(self, f"block_{i}")(hidden, seen)
        return x + to_frames(self.proj_out(hidden), x.shape, batch)


class Hybrid(nnx.Module):
    """x + share * (what Conv3D adds) + (1 - share) * (what RotaryTransformer adds), with a share learnt for each channel.

    Stable Video Diffusion mixes space and time by such a share; here it mixes near frames and far ones. One half at first.
    """

    def __init__(self, width: int, config: TemporalConfig, rngs: nnx.Rngs, policy: Policy):
        self.near = Conv3D(width, config, rngs, policy)
        self.far = RotaryTransformer(width, config, rngs, policy)
        self.mix = nnx.Param(jnp.zeros((width,), policy.param))

    def __call__(self, x: jax.Array, batch: int, seen: jax.Array | None = None) -> jax.Array:
        """x [B*F,h,w,C] with B = `batch` -> the same shape."""
        share = jax.nn.sigmoid(self.mix[...].astype(jnp.float32)).astype(x.dtype)
        return x + share * (self.near(x, batch) - x) + (1 - share) * (self.far(x, batch, seen) - x)


OWN = {"conv3d": Conv3D, "transformer": RotaryTransformer, "hybrid": Hybrid}
"""By the name that configurations have for them, which unet_config.py lists."""
