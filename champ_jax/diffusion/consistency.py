"""Consistency functions of latent diffusion (LCM, Luo et al., arXiv 2310.04378): any noisy point of a path to its clean end."""

import jax
import jax.numpy as jnp

from champ_jax.diffusion.samplers import LCM_SCALING, LCM_SIGMA
from champ_jax.diffusion.schedule import Schedule, to_x0


def boundary(t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(c_skip, c_out) at timesteps t [B] or scalar, float32: 1 and 0 at t = 0, nearly 0 and 1 from then on. Shape of t.

    Those of the sampler "lcm": what is sampled must be what was trained.
    """
    scaled = jnp.asarray(t, jnp.float32) * LCM_SCALING
    total = scaled**2 + LCM_SIGMA**2
    return LCM_SIGMA**2 / total, scaled / jnp.sqrt(total)


def consistency(schedule: Schedule, x: jax.Array, prediction: jax.Array, t: jax.Array) -> jax.Array:
    """f(x, t) = c_skip x + c_out x0 of noisy x at t and what a network predicts there. Float32, shape of x.

    x, prediction: [B, ...]; t: [B] or scalar. Where t <= 0 it is x itself: the boundary condition that keeps the function
    from collapsing. At a terminal SNR of zero it is what `to_x0` makes of the prediction alone.
    """
    t = jnp.maximum(t, 0)
    c_skip, c_out = (c.reshape(c.shape + (1,) * (x.ndim - c.ndim)) for c in boundary(t))
    return c_skip * x.astype(jnp.float32) + c_out * to_x0(schedule, x, prediction, t)
