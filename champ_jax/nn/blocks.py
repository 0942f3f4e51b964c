"""The two blocks every network here is made of: a resnet block and a spatial transformer block, and what the latter may read."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from champ_jax.nn.attention import Attention, KeyValue
from champ_jax.nn.identity import FaceAttention
from champ_jax.nn.layers import FeedForward, GroupNorm, Strength, conv, layer_norm, linear
from champ_jax.nn.policy import Policy
from champ_jax.nn.style import Style, channel_moments


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


class BlockReference(NamedTuple):
    """What a transformer block may read of R references.

    keys, values: [B,R,M,K,d], or None where only the style is read. coarse: keys and values of smaller pictures of them,
    or None. moments: [B,R,2,C], mean and variance of each channel of what the same block of the reference network reads.
    """

    keys: jax.Array | None
    values: jax.Array | None
    coarse: KeyValue | None
    moments: jax.Array


class Read(NamedTuple):
    """What a transformer block may read besides its input.

    context: [B,L,Dc] tokens for cross-attention, or [B,R,1,Dc], a token of each reference. reference, share: references and
    what each of them counts, [B,R] or [B,F,N,R]. face: tokens [B,F or 1,n,Dc] of who the person is, and [B], 0 for rows
    without a face.
    """

    context: jax.Array | None = None
    reference: BlockReference | None = None
    share: jax.Array | None = None
    face: tuple[jax.Array, jax.Array] | None = None


NOTHING = Read()


class BlockFeatures(NamedTuple):
    """What a block offers as a reference: tokens [B,F*N,C] after its norm1, and `channel_moments` of its input [B*F,2,C].

    Both become dead code where nobody asks for them.
    """

    tokens: jax.Array
    moments: jax.Array


class SpatialTransformer(nnx.Module):
    """norm, proj_in, one transformer block over the positions of each frame, proj_out, + input.

    The block is pre-norm: attn1 (self-attention, extended by the reference), attn2 (cross-attention to the context, and
    to the face's tokens where `identity` says how; absent when context_dim is None), GEGLU feed-forward.
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
        identity: str | None = None,
        style: bool = False,
        coarse: bool = False,
    ):
        """Args: style whether the input takes on the reference's statistics; coarse whether smaller pictures of the
        reference are read too; both, and the face's tokens, change nothing at first."""
        self.has_context = context_dim is not None
        self.style = Style(policy) if style else None
        self.norm = GroupNorm(width, groups, rngs, policy, epsilon=1e-6)
        self.proj_in = linear(width, width, rngs, policy)
        self.norm1 = layer_norm(width, rngs, policy)
        self.attn1 = Attention(width, heads, rngs, policy)
        # Tokens first attend to their like ("Mimetic Initialization of Self-Attention Layers", arXiv 2305.09828), and so
        # to the photo's similar parts.
        self.attn1.to_k.kernel = nnx.Param(jnp.copy(self.attn1.to_q.kernel[...]))
        self.coarse = Strength(policy) if coarse else None
        if self.has_context:
            self.norm2 = layer_norm(width, rngs, policy)
            if identity:
                self.attn2 = FaceAttention(width, heads, rngs, policy, context_dim, aligned=identity == "aligned")
            else:
                self.attn2 = Attention(width, heads, rngs, policy, context_dim)
        self.norm3 = layer_norm(width, rngs, policy)
        self.ff = FeedForward(width, ff_mult, rngs, policy)
        self.proj_out = linear(width, width, rngs, policy)

    def __call__(self, x: jax.Array, read: Read = NOTHING, batch: int = 1) -> tuple[jax.Array, BlockFeatures]:
        """Runs the block.

        Args:
          x: [B*F,h,w,C].
          read: what it may read; the context is needed when the block has cross-attention.
          batch: B, how many clips the rows of x belong to.

        Returns:
          The output [B*F,h,w,C], and what a reference network offers.
        """
        reference, moments = read.reference, channel_moments(x)
        if self.style is not None and reference is not None:
            x = self.style(x, moments, reference.moments, read.share)
        hidden = rearrange(self.proj_in(self.norm(x)), "(b f) h w c -> b f (h w) c", b=batch)
        normed = self.norm1(hidden)
        keys = None if reference is None or reference.keys is None else (reference.keys, reference.values)
        coarse = None if reference is None else reference.coarse
        hidden = hidden + self.attn1.with_reference(normed, keys, read.share, coarse, self.coarse)
        if self.has_context:
            hidden = hidden + self._cross(hidden, read)
        hidden = hidden + self.ff(self.norm3(hidden))
        out = self.proj_out(hidden.reshape(x.shape)) + x
        return out, BlockFeatures(rearrange(normed, "b f n c -> b (f n) c"), moments)

    def _cross(self, hidden, read: Read):
        """Cross-attention of hidden [B,F,N,D], broadcastable to its shape."""
        if isinstance(self.attn2, FaceAttention) and read.face is not None:
            return self.attn2.with_face(self.norm2(hidden), read.context, *read.face)
        if read.context.ndim == 4:
            return self.attn2.single_tokens(read.context[:, :, 0], read.share)
        if read.context.shape[1] == 1:
            return self.attn2.single_token(read.context)[:, None]
        queries = rearrange(self.norm2(hidden), "b f n d -> b (f n) d")
        return self.attn2(queries, read.context).reshape(hidden.shape)
