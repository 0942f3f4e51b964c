"""What classical convolutional networks share, in any number of dimensions: convolution, batch normalisation, pooling.

They serve as measuring instruments here, so that float32 means float32: products are at the highest precision, where
accelerators would round their factors.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.nn.layers import kernel_init
from champ_jax.nn.policy import Policy

Padding = str | Sequence[int]
"""Cells added at both ends of each axis, as in PyTorch; or "SAME" as in TensorFlow, which depends on the size."""


def _pairs(padding: Padding) -> str | list[tuple[int, int]]:
    return padding if isinstance(padding, str) else [(cells, cells) for cells in padding]


def conv_nd(
    width_in: int,
    width_out: int,
    window: Sequence[int],
    rngs: nnx.Rngs,
    policy: Policy,
    stride: int | Sequence[int] = 1,
    padding: Padding | None = None,
    bias: bool = False,
):
    """Returns a convolution [B,*space,width_in] -> [B,*space',width_out]; by default padded by half its odd window."""
    return nnx.Conv(
        width_in,
        width_out,
        kernel_size=tuple(window),
        strides=stride,
        padding=_pairs([side // 2 for side in window] if padding is None else padding),
        use_bias=bias,
        kernel_init=kernel_init,
        dtype=policy.compute,
        param_dtype=policy.param,
        precision=jax.lax.Precision.HIGHEST,
        rngs=rngs,
    )


class BatchNorm(nnx.Module):
    """Batch normalisation as it is after training: by stored statistics; parameters scale, bias, mean and var."""

    def __init__(self, width: int, rngs: nnx.Rngs, policy: Policy, epsilon: float = 1e-5):
        """Args: width channels; rngs unused, all starts at the identity; policy its precision; epsilon added to var."""
        self.epsilon, self.compute = epsilon, policy.compute
        self.scale = nnx.Param(jnp.ones((width,), policy.param))
        self.bias = nnx.Param(jnp.zeros((width,), policy.param))
        self.mean = nnx.Param(jnp.zeros((width,), policy.param))
        self.var = nnx.Param(jnp.ones((width,), policy.param))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises x [B,...,C]; returns the same shape in the compute dtype."""
        scale, bias, mean, var = (value[...].astype(jnp.float32) for value in (self.scale, self.bias, self.mean, self.var))
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return ((x.astype(jnp.float32) - mean) * factor + bias).astype(self.compute)


class ConvUnit(nnx.Module):
    """Convolution without bias, batch normalisation, and ReLU unless `relu` is False; submodules conv and norm."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        window: Sequence[int],
        rngs: nnx.Rngs,
        policy: Policy,
        stride: int | Sequence[int] = 1,
        padding: Padding | None = None,
        epsilon: float = 1e-5,
        relu: bool = True,
    ):
        self.conv = conv_nd(width_in, width_out, window, rngs, policy, stride, padding)
        self.norm = BatchNorm(width_out, rngs, policy, epsilon)
        self.relu = relu

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,*space,C] -> [B,*space',C']."""
        x = self.norm(self.conv(x))
        return jax.nn.relu(x) if self.relu else x


def max_pool(x: jax.Array, window: Sequence[int], stride: Sequence[int], padding: Padding | None = None) -> jax.Array:
    """Largest value in each window of x [B,*space,C] -> [B,*space',C]; padding, none by default, never wins."""
    return nnx.max_pool(x, tuple(window), tuple(stride), _pairs(padding or [0] * len(window)))


def mean_pool(x: jax.Array, window: Sequence[int], padding: Padding | None = None) -> jax.Array:
    """Mean over each window of x [B,*space,C], one cell apart -> [B,*space',C]; padding does not count."""
    return nnx.avg_pool(x, tuple(window), (1,) * len(window), _pairs(padding or [0] * len(window)), count_include_pad=False)
