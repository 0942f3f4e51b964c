"""The reference network's side of mutual self-attention, as pure functions.

The reference network reads the photo once and *returns* the tokens its self-attentions read; the denoiser *takes*
them. The two are paired by block name, never by order (CHAMP's models/mutual_self_attention.py pairs by sorting).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from champ_jax.models.unet import ProjectedReference, ReferenceFeatures, UNet


def reference_features(unet: UNet, latents: jax.Array, context: jax.Array | None, guidance: jax.Array | None = None) -> ReferenceFeatures:
    """Runs the reference network at timestep 0.

    Under `jax.jit` everything after the last block's first norm is dead code and is dropped by the compiler.

    Args:
      unet: the reference network.
      latents: the photo's latents [B,h,w,C].
      context: tokens [B,L,Dc], as for the denoiser.
      guidance: encoded skeleton of the photo's person [B,h,w,D0], for models with `reference_pose`.

    Returns:
      Block name to tokens [B,N,D] after that block's norm1.
    """
    guidance = None if guidance is None else guidance[:, None]
    _, features = unet.run(latents[:, None], jnp.zeros((), jnp.int32), context, guidance)
    return features


def project_reference(denoiser: UNet, features: ReferenceFeatures) -> ProjectedReference:
    """Keys and values [B,M,K,d] by block name: do it once a clip, for they do not change with frame or step."""
    return denoiser.project_reference(features)


def round_like_champ(features: ReferenceFeatures) -> ReferenceFeatures:
    """Features rounded to float16 and back: CHAMP stores its bank so, even in a float32 run. For parity only."""
    return {name: tokens.astype(jnp.float16).astype(tokens.dtype) for name, tokens in features.items()}
