"""Multi-head attention: self, cross, over frames, or with reference keys, by what it is given."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from champ_jax.nn.kernels import attend, attend_to_shared, attend_with_shared, sources_seen
from champ_jax.nn.layers import Strength, linear
from champ_jax.nn.policy import Policy

KeyValue = tuple[jax.Array, jax.Array]
"""Projected keys and values, each [...,M,K,d]."""

ROPE_BASE = 10000.0


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[...,K*d] with K = `heads` -> [...,K,d]."""
    return rearrange(x, "... (k d) -> ... k d", k=heads)


def join_heads(x: jax.Array) -> jax.Array:
    """The inverse of `split_heads`: [...,K,d] -> [...,K*d]."""
    return rearrange(x, "... k d -> ... (k d)")


def rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Rotary position embedding (Su et al. 2021): x [B,N,K,d], d even, at positions [N] -> the same shape and dtype."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * ROPE_BASE ** (-jnp.arange(half, dtype=jnp.float32) / half)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    a, b = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


class Attention(nnx.Module):
    """Attention with `heads` heads of width/heads; queries, keys and values without bias, the output with."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs, policy: Policy, context_dim: int | None = None):
        """Args: width D of queries and output; context_dim Dc of the keys' tokens, D if None."""
        if width % heads:
            raise ValueError(f"Attention: width {width} does not divide into {heads} heads.")
        self.heads = heads
        self.to_q = linear(width, width, rngs, policy, bias=False)
        self.to_k = linear(context_dim or width, width, rngs, policy, bias=False)
        self.to_v = linear(context_dim or width, width, rngs, policy, bias=False)
        self.to_out = linear(width, width, rngs, policy)

    def project(self, tokens: jax.Array) -> KeyValue:
        """Keys and values of tokens [...,M,Dc]: two arrays [...,M,K,d]."""
        return self._split(self.to_k(tokens)), self._split(self.to_v(tokens))

    def __call__(self, x: jax.Array, tokens: jax.Array | None = None, seen: jax.Array | None = None) -> jax.Array:
        """Attends from x [B,N,D] to `tokens` [B,M,Dc], or to itself when None -> [B,N,D]; seen: of `attend`, to itself."""
        keys, values = self.project(x if tokens is None else tokens)
        return self._join(attend(self._split(self.to_q(x)), keys, values, seen))

    def with_reference(
        self,
        x: jax.Array,
        reference: KeyValue | None,
        share: jax.Array | None,
        coarse: KeyValue | None = None,
        strength: Strength | None = None,
    ) -> jax.Array:
        """Spatial self-attention of every frame, extended by the keys of R references that its clip shares.

        CHAMP's mutual self-attention: own and reference tokens stand in one softmax, and this module's own to_k and
        to_v have projected both.

        Args:
          x: [B,F,N,D].
          reference: keys and values [B,R,M,K,d] from `project`, or None for self-attention, which keeps people apart all the same.
          share: [B,R] or [B,F,N,R], what each reference counts; see `attend_with_shared`.
          coarse: keys and values of smaller pictures of the references; what is found in them alone is added, `strength` times.

        Returns:
          [B,F,N,D].
        """
        if reference is None:
            fold = lambda y: rearrange(y, "b f n d -> (b f) n d")  # noqa: E731
            seen = fold(sources_seen(share)) if share is not None and share.ndim == 4 else None
            return self(fold(x), seen=seen).reshape(x.shape)
        queries = self._split(self.to_q(x))
        found = attend_with_shared(queries, *self.project(x), *reference, share)
        if coarse is not None:
            found = found + strength(attend_to_shared(queries, *coarse, share))
        return self._join(found)

    def single_token(self, token: jax.Array) -> jax.Array:
        """What every query gets from a context of one token [B,1,Dc]: to_out(to_v(token)), [B,1,D].

        A softmax over one key is 1, so this is exact in value and gradient, and queries and keys are not needed.
        """
        return self.to_out(self.to_v(token))

    def single_tokens(self, tokens: jax.Array, share: jax.Array | None) -> jax.Array:
        """As `single_token` for a context of one token a source, [B,R,Dc], of which each query reads its share.

        share: [B,R] or [B,F,N,R], None for 1 / R. Returns [B,1,1,D] or [B,F,N,D].
        """
        if share is None:
            share = jnp.full(tokens.shape[:2], 1 / tokens.shape[1])
        share = share if share.ndim == 4 else share[:, None, None]
        return self.to_out(jnp.einsum("bfnr,brd->bfnd", share.astype(tokens.dtype), self.to_v(tokens)))

    def _split(self, x):
        return split_heads(x, self.heads)

    def _join(self, x):
        return self.to_out(join_heads(x))
