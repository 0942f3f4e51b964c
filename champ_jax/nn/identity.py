"""Cross-attention that also reads the tokens of a face, by projections of its own.

StableAnimator's adapter moves what it finds to the mean and deviation of what was found in the context before it is added,
so that no block meets numbers that it was not trained on; IP-Adapter (arXiv 2308.06721) adds it as it is. Here both are
multiplied by a strength that is learnt and starts at zero; StableAnimator's own weights have it at one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from champ_jax.nn.attention import Attention, KeyValue
from champ_jax.nn.kernels import attend, attend_to_shared
from champ_jax.nn.layers import Strength, linear
from champ_jax.nn.policy import Policy

EPSILON = 1e-5


class FaceAttention(Attention):
    """Cross-attention to the context, with id_to_k and id_to_v for the tokens of a face, and id_strength."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs, policy: Policy, context_dim: int, aligned: bool):
        """Args: as of Attention; aligned whether what is found in the face takes on the statistics of the rest."""
        super().__init__(width, heads, rngs, policy, context_dim)
        self.aligned = aligned
        self.id_to_k = linear(context_dim, width, rngs, policy, bias=False)
        self.id_to_v = linear(context_dim, width, rngs, policy, bias=False)
        self.id_strength = Strength(policy)

    def with_face(self, x: jax.Array, context: jax.Array, face: jax.Array, present: jax.Array) -> jax.Array:
        """Attends from x [B,F,N,D] to the context [B,L,Dc] and to the face.

        Args:
          face: tokens [B,F,n,Dc] of each frame, or [B,1,n,Dc] of all.
          present: [B], 0 for rows that have no face and read the context alone.

        Returns:
          [B,F,N,D].
        """
        queries = self._split(self.to_q(x))
        if context.shape[1] == 1:
            base = jnp.broadcast_to(self.to_v(context)[:, None], x.shape)
        else:
            base = attend_to_shared(queries, *(array[:, None] for array in self.project(context))).reshape(x.shape)
        keys, values = (self._split(project(face)) for project in (self.id_to_k, self.id_to_v))
        fold = lambda array: rearrange(array, "b f ... -> (b f) ...")  # noqa: E731
        each_frame = lambda array: fold(jnp.broadcast_to(array, (*x.shape[:2], *array.shape[2:])))  # noqa: E731
        found = id_attention(fold(queries), fold(base), (each_frame(keys), each_frame(values)), self.aligned)
        found = self.id_strength(found).reshape(x.shape) * present.astype(found.dtype)[:, None, None, None]
        return self.to_out(base + found)


def id_attention(queries: jax.Array, base: jax.Array, face: KeyValue, aligned: bool = True) -> jax.Array:
    """What a cross-attention's queries find in the face's tokens, to be added to what they found in the context.

    Args:
      queries: [B,N,K,d].
      base: [B,N,K*d], the attention to the context, before its output layer. A context of one token makes it the same for
        every query; then all of its deviation is among the channels.
      face: keys and values [B,M,K,d] of the face's tokens, by the adapter's projections.
      aligned: whether to move it to the mean and deviation of `base`.

    Returns:
      [B,N,K*d], for the output layer.
    """
    found = attend(queries, *face).reshape(base.shape)
    return like_in_distribution(found, base) if aligned else found


def like_in_distribution(x: jax.Array, other: jax.Array) -> jax.Array:
    """x [B,N,D] with the mean and deviation of `other` [B,N,D], each over the tokens and channels of a row: [B,N,D]."""
    values, wanted = x.astype(jnp.float32), other.astype(jnp.float32)
    mean, deviation = _statistics(values)
    wanted_mean, wanted_deviation = _statistics(wanted)
    return ((values - mean) * (wanted_deviation / (deviation + EPSILON)) + wanted_mean).astype(x.dtype)


def _statistics(x):
    """Mean and unbiased deviation of each row of x [B,N,D], both [B,1,1]."""
    return x.mean(axis=(1, 2), keepdims=True), x.std(axis=(1, 2), keepdims=True, ddof=1)
