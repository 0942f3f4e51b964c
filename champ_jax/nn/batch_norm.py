"""Batch normalisation of a trained network, whose statistics are parameters like any other, and PReLU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.nn.policy import Policy


class BatchNorm(nnx.Module):
    """(x - mean) / sqrt(var + epsilon) * scale + bias for each channel, with the statistics that training recorded."""

    def __init__(self, width: int, policy: Policy, epsilon: float = 1e-5):
        self.epsilon = epsilon
        self.compute = policy.compute
        self.scale = nnx.Param(jnp.ones((width,), policy.param))
        self.bias = nnx.Param(jnp.zeros((width,), policy.param))
        self.mean = nnx.Param(jnp.zeros((width,), policy.param))
        self.var = nnx.Param(jnp.ones((width,), policy.param))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [...,C] -> [...,C] in the compute dtype."""
        scale, bias, mean, var = (part[...].astype(jnp.float32) for part in (self.scale, self.bias, self.mean, self.var))
        return ((x.astype(jnp.float32) - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias).astype(self.compute)


class PReLU(nnx.Module):
    """x where it is positive and slope * x elsewhere, with one slope a channel."""

    def __init__(self, width: int, policy: Policy):
        self.slope = nnx.Param(jnp.full((width,), 0.25, policy.param))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [...,C] -> [...,C]."""
        return jnp.where(x > 0, x, self.slope[...].astype(x.dtype) * x)
