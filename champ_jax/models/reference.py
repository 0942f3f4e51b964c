"""The reference network's side of mutual self-attention, as pure functions.

The reference network reads the photos once and *returns* what its self-attentions read; the denoiser *takes* it. The two are
paired by block name, never by order (CHAMP's models/mutual_self_attention.py pairs by sorting).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange

from champ_jax.models.unet import COARSE, ReferenceFeatures, UNet


def reference_features(
    unet: UNet, latents: jax.Array, context: jax.Array | None, guidance: jax.Array | None = None, coarse: bool = False
) -> ReferenceFeatures:
    """Runs the reference network at timestep 0 on R photos each.

    Under `jax.jit` everything after the last block's first norm is dead code and is dropped by the compiler.

    Args:
      unet: the reference network.
      latents: the photos' latents [B,R,h,w,C].
      context: tokens [B,R,L,Dc] of each photo, as for the denoiser.
      guidance: encoded skeletons of the photos' people [B,R,h,w,D0], for models with `reference_pose`.
      coarse: whether to run it on the photos at half their size too, for denoisers that read both.

    Returns:
      Block name to tokens [B,R,N,D] after that block's norm1 and moments of its input [B,R,2,C]; with `coarse` also those
      of the smaller photos, under the name with COARSE behind it.
    """
    features = _features(unet, latents, context, guidance)
    if coarse:
        guidance = None if guidance is None else halve(guidance)
        smaller = _features(unet, halve(latents), context, guidance)
        features |= {name + COARSE: part for name, part in smaller.items()}
    return features


def _features(unet, latents, context, guidance) -> ReferenceFeatures:
    references = latents.shape[:2]
    apart = lambda x: None if x is None else rearrange(x, "b r h w c -> (b r) 1 h w c")  # noqa: E731
    context = None if context is None else rearrange(context, "b r l d -> (b r) l d")
    side = unet.side_inputs(apart(latents), jnp.zeros((), jnp.int32), context)
    _, features, _ = unet.run(apart(latents), side, apart(guidance))
    return jax.tree.map(lambda x: x.reshape(*references, *x.shape[1:]), features)


def halve(x: jax.Array) -> jax.Array:
    """Means of squares of 2 x 2 cells of x [B,R,h,w,C]; where a side is odd the last ones are of less."""
    height, width = x.shape[2:4]
    x = jnp.pad(x, ((0, 0), (0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return rearrange(x, "b r (h row) (w column) c -> b r h row w column c", row=2, column=2).mean(axis=(3, 5))


def round_like_champ(features: ReferenceFeatures) -> ReferenceFeatures:
    """Features rounded to float16 and back: CHAMP stores its bank so, even in a float32 run. For parity only."""
    return jax.tree.map(lambda tokens: tokens.astype(jnp.float16).astype(tokens.dtype), features)
