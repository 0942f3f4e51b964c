"""The temporal layers of ModelScope's text-to-video model, as in diffusers' UNet3DConditionModel.

After each resnet stands a stack of convolutions over frames, after each spatial attention a transformer over frames, and one
more transformer after the first convolution (models.temporal says where).
"""

from __future__ import annotations

import jax
from flax import nnx

from champ_jax.nn.attention import Attention
from champ_jax.nn.frames import fold_frames, frame_conv, over_frames, to_frames, unfold_frames
from champ_jax.nn.layers import FeedForward, GroupNorm, layer_norm, linear
from champ_jax.nn.policy import Policy

STACKED = 4
"""Convolutions in each stack."""


class TemporalConv(nnx.Module):
    """Four times norm, SiLU, convolution over frames, + input; nothing at first (diffusers' TemporalConvLayer).

    The norms' statistics are those of the whole clip.
    """

    def __init__(self, width: int, groups: int, rngs: nnx.Rngs, policy: Policy):
        for i in range(1, STACKED + 1):
            setattr(self, f"norm{i}", GroupNorm(width, groups, rngs, policy))
            setattr(self, f"conv{i}", frame_conv(width, width, rngs, policy, zero=i == STACKED))

    def __call__(self, x: jax.Array, batch: int, seen: jax.Array | None = None) -> jax.Array:
        """x [B*F,h,w,C] with B = `batch` -> the same shape; a convolution keeps no people apart, whatever is `seen`."""
        hidden = unfold_frames(x, batch)
        for i in range(1, STACKED + 1):
            hidden = getattr(self, f"conv{i}")(jax.nn.silu(getattr(self, f"norm{i}")(hidden)))
        return x + fold_frames(hidden)


class TemporalTransformer(nnx.Module):
    """norm of the clip, proj_in, one block over the frames of each position, proj_out (zero at first), + input.

    diffusers' TransformerTemporalModel: both attentions of the block are over frames, and it has no positions.
    """

    def __init__(self, width: int, heads: int, head_dim: int, groups: int, ff_mult: int, rngs: nnx.Rngs, policy: Policy):
        inner = heads * head_dim
        self.norm = GroupNorm(width, groups, rngs, policy, epsilon=1e-6)
        self.proj_in = linear(width, inner, rngs, policy)
        self.norm1 = layer_norm(inner, rngs, policy)
        self.attn1 = Attention(inner, heads, rngs, policy)
        self.norm2 = layer_norm(inner, rngs, policy)
        self.attn2 = Attention(inner, heads, rngs, policy)
        self.norm3 = layer_norm(inner, rngs, policy)
        self.ff = FeedForward(inner, ff_mult, rngs, policy)
        self.proj_out = linear(inner, width, rngs, policy, zero=True)

    def __call__(self, x: jax.Array, batch: int, seen: jax.Array | None = None) -> jax.Array:
        """x [B*F,h,w,C] with B = `batch` -> the same shape; seen: [B*h*w,F,R] of each frame of a position, as `attend` takes it."""
        hidden = over_frames(self.proj_in(self.norm(unfold_frames(x, batch))))
        hidden = hidden + self.attn1(self.norm1(hidden), seen=seen)
        hidden = hidden + self.attn2(self.norm2(hidden), seen=seen)
        hidden = self.proj_out(hidden + self.ff(self.norm3(hidden)))
        return x + to_frames(hidden, x.shape, batch)
