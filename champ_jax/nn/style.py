"""Style injection: features take on the statistics that a reference has at the same place in the network.

Adaptive instance normalisation (Huang and Belongie, arXiv 1703.06868), with a strength that is learnt and starts at zero.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from champ_jax.nn.layers import Strength
from champ_jax.nn.policy import Policy

EPSILON = 1e-5


def channel_moments(x: jax.Array) -> jax.Array:
    """Mean and variance of each channel of x [B,h,w,C] over its positions, [B,2,C] float32."""
    flat = x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])
    return jnp.stack([flat.mean(axis=1), flat.var(axis=1)], axis=1)


def joint_moments(moments: jax.Array, share: jax.Array | None) -> jax.Array:
    """Moments [B,R,2,C] of R references as those of one set of positions in which reference r counts its share.

    share: [B,R] -> [B,1,1,2,C]; [B,F,N,R], by position -> [B,F,N,2,C]; None, all alike -> [B,1,1,2,C].
    """
    if share is None:
        share = jnp.full(moments.shape[:2], 1 / moments.shape[1])
    share = (share if share.ndim == 4 else share[:, None, None]).astype(jnp.float32)
    mean, variance = moments[:, :, 0], moments[:, :, 1]
    mix = lambda values: jnp.einsum("bfnr,brc->bfnc", share, values)  # noqa: E731
    joint = mix(mean)
    return jnp.stack([joint, jnp.maximum(mix(variance + jnp.square(mean)) - jnp.square(joint), 0.0)], axis=-2)


class Style(nnx.Module):
    """x + strength * (x with the references' mean and deviation in each channel - x)."""

    def __init__(self, policy: Policy):
        self.strength = Strength(policy)

    def __call__(self, x: jax.Array, own: jax.Array, reference: jax.Array, share: jax.Array | None) -> jax.Array:
        """Moves the statistics of each frame towards those of what it may see.

        Args:
          x: [B*F,h,w,C].
          own: `channel_moments(x)`.
          reference: [B,R,2,C], the references' moments.
          share: [B,R] or [B,F,N,R], what each reference counts; where it is 0 for all, nothing is changed.

        Returns:
          [B*F,h,w,C].
        """
        clips = reference.shape[0]
        values = rearrange(x.astype(jnp.float32), "(b f) h w c -> b f (h w) c", b=clips)
        own = rearrange(own, "(b f) moments c -> b f 1 moments c", b=clips)
        wanted = joint_moments(reference, share)
        deviation = [jnp.sqrt(moments[..., 1, :] + EPSILON) for moments in (own, wanted)]
        moved = (values - own[..., 0, :]) / deviation[0] * deviation[1] + wanted[..., 0, :] - values
        if share is not None:
            seen = (share > 0).any(axis=-1)
            moved = jnp.where(seen[..., None] if share.ndim == 4 else seen[:, None, None, None], moved, 0.0)
        return x + self.strength(moved).reshape(x.shape).astype(x.dtype)
