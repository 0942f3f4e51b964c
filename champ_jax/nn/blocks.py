"""The two blocks every network here is made of: a resnet block and a spatial transformer block."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.nn.attention import Attention, KeyValue
from champ_jax.nn.layers import FeedForward, GroupNorm, conv, layer_norm, linear
from champ_jax.nn.policy import Policy


class ResnetBlock(nnx.Module):
    """norm, SiLU, conv, + time, norm, SiLU, conv, + input (through a linear layer where the widths differ)."""

    def __init__(self, width_in: int, width_out: int, time_width: int, groups: int, rngs: nnx.Rngs, policy: Policy):
        self.norm1 = GroupNorm(width_in, groups, rngs, policy)
        self.conv1 = conv(width_in, width_out, rngs, policy)
        self.time_proj = linear(time_width, width_out, rngs, policy)
        self.norm2 = GroupNorm(width_out, groups, rngs, policy)
        self.conv2 = conv(width_out, width_out, rngs, policy)
        self.shortcut = linear(width_in, width_out, rngs, policy) if width_in != width_out else None

    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """x [B*F,h,w,C], time [B,E] after its SiLU -> [B*F,h,w,C']."""
        shift = self.time_proj(time)
        shift = jnp.repeat(shift, x.shape[0] // shift.shape[0], axis=0)[:, None, None, :]
        hidden = self.conv1(jax.nn.silu(self.norm1(x))) + shift
        hidden = self.conv2(jax.nn.silu(self.norm2(hidden)))
        return hidden + (x if self.shortcut is None else self.shortcut(x))


class SpatialTransformer(nnx.Module):
    """norm, proj_in, one transformer block over the positions of each frame, proj_out, + input.

    The block is pre-norm: attn1 (self-attention, extended by the reference), attn2 (cross-attention to the context;
    absent when context_dim is None), GEGLU feed-forward.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        groups: int,
        context_dim: int | None,
        ff_mult: int,
        rngs: nnx.Rngs,
        policy: Policy,
    ):
        self.has_context = context_dim is not None
        self.norm = GroupNorm(width, groups, rngs, policy, epsilon=1e-6)
        self.proj_in = linear(width, width, rngs, policy)
        self.norm1 = layer_norm(width, rngs, policy)
        self.attn1 = Attention(width, heads, rngs, policy)
        # Tokens first attend to their like ("Mimetic Initialization of Self-Attention Layers", arXiv 2305.09828), and so
        # to the photo's similar parts.
        self.attn1.to_k.kernel = nnx.Param(jnp.copy(self.attn1.to_q.kernel[...]))
        if self.has_context:
            self.norm2 = layer_norm(width, rngs, policy)
            self.attn2 = Attention(width, heads, rngs, policy, context_dim)
        self.norm3 = layer_norm(width, rngs, policy)
        self.ff = FeedForward(width, ff_mult, rngs, policy)
        self.proj_out = linear(width, width, rngs, policy)

    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        reference: KeyValue | None = None,
        reference_mask: jax.Array | None = None,
        batch: int = 1,
    ) -> tuple[jax.Array, jax.Array]:
        """Runs the block.

        Args:
          x: [B*F,h,w,C].
          context: [B,L,Dc] tokens for cross-attention; needed when the block has one.
          reference: keys and values of the reference, [B,M,K,d], shared by the frames.
          reference_mask: [B], 0 for rows that must not see it.
          batch: B, how many clips the rows of x belong to.

        Returns:
          The output [B*F,h,w,C] and the tokens attn1 read, after norm1, [B,F*N,C]: what a reference network offers
          and what becomes dead code where nobody asks for it.
        """
        rows, height, width, channels = x.shape
        hidden = self.proj_in(self.norm(x)).reshape(batch, rows // batch, height * width, channels)
        normed = self.norm1(hidden)
        hidden = hidden + self.attn1.with_reference(normed, reference, reference_mask)
        if self.has_context:
            hidden = hidden + self._cross(hidden, context)
        hidden = hidden + self.ff(self.norm3(hidden))
        out = self.proj_out(hidden.reshape(x.shape)) + x
        return out, normed.reshape(batch, -1, channels)

    def _cross(self, hidden, context):
        """Cross-attention of hidden [B,F,N,D], broadcastable to its shape."""
        if context.shape[1] == 1:
            return self.attn2.single_token(context)[:, None]
        batch, frames, tokens, width = hidden.shape
        queries = self.norm2(hidden).reshape(batch, frames * tokens, width)
        return self.attn2(queries, context).reshape(hidden.shape)
