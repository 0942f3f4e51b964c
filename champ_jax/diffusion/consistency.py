"""Consistency functions of latent diffusion (LCM, Luo et al., arXiv 2310.04378): any noisy point of a path to its clean end."""

import jax
import jax.numpy as jnp

from champ_jax.diffusion.schedule import Schedule, to_x0

SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0
"""Of the boundary condition, as in diffusers' LCMScheduler: what is sampled must be what was trained."""


def boundary(t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(c_skip, c_out) at timesteps t [B] or scalar, float32: 1 and 0 at t = 0, nearly 0 and 1 a few steps on. Shape of t."""
    scaled = jnp.asarray(t, jnp.float32) * TIMESTEP_SCALING
    total = scaled**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / total, scaled / jnp.sqrt(total)


def consistency(schedule: Schedule, x: jax.Array, prediction: jax.Array, t: jax.Array) -> jax.Array:
    """f(x, t) = c_skip x + c_out x0 of noisy x at t and what a network predicts there. Float32, shape of x.

    x, prediction: [B, ...]; t: [B] or scalar. Where t <= 0 it is x itself: the boundary condition that keeps the function
    from collapsing. At a terminal SNR of zero it is what `to_x0` makes of the prediction alone.
    """
    t = jnp.maximum(t, 0)
    c_skip, c_out = (c.reshape(c.shape + (1,) * (x.ndim - c.ndim)) for c in boundary(t))
    return c_skip * x.astype(jnp.float32) + c_out * to_x0(schedule, x, prediction, t)
