"""Classifier-free guidance."""

import jax
import jax.numpy as jnp


def classifier_free(uncond: jax.Array, cond: jax.Array, scale: float | jax.Array, rescale: float = 0.0) -> jax.Array:
    """uncond + scale * (cond - uncond) in float32. uncond, cond: [B, ...] predictions; scale 1 gives cond.

    rescale in [0, 1] blends in the same prediction scaled to the per-sample standard deviation of `cond`, which
    keeps strong guidance from over-saturating (Lin et al., arXiv 2305.08891, section 3.4).
    """
    uncond, cond = uncond.astype(jnp.float32), cond.astype(jnp.float32)
    guided = uncond + scale * (cond - uncond)
    if rescale == 0.0:
        return guided
    axes = tuple(range(1, cond.ndim))
    ratio = cond.std(axes, keepdims=True) / jnp.maximum(guided.std(axes, keepdims=True), 1e-8)
    return guided * (1 - rescale + rescale * ratio)
