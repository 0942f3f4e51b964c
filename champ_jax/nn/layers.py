"""Linear, convolution, norms, feed-forward and time embedding, as Stable Diffusion 1.5 has them, channels last."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from jax.typing import DTypeLike

from champ_jax.nn.policy import Policy


def kernel_init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Normal with variance 1/fan_in, for kernels [...,in,out].

    With the key at hand it draws on the host: compiling a generator for every shape of a large model takes minutes.
    Under a transformation of JAX, where only the shape may be known, it draws in JAX, other numbers.
    """
    scale = math.prod(shape[:-1]) ** -0.5
    if isinstance(key, jax.core.Tracer):
        return scale * jax.random.normal(key, shape, dtype)
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jnp.asarray(scale * generator.standard_normal(shape, np.float32), dtype)


def linear(width_in: int, width_out: int, rngs: nnx.Rngs, policy: Policy, bias: bool = True, zero: bool = False):
    """Returns a linear layer [..., width_in] -> [..., width_out]; `zero` starts it at nothing."""
    return nnx.Linear(
        width_in,
        width_out,
        use_bias=bias,
        kernel_init=nnx.initializers.zeros if zero else kernel_init,
        dtype=policy.compute,
        param_dtype=policy.param,
        rngs=rngs,
    )


def conv(width_in: int, width_out: int, rngs: nnx.Rngs, policy: Policy, stride: int = 1, zero: bool = False):
    """Returns a 3x3 convolution [B,h,w,width_in] -> [B,h/stride,w/stride,width_out] with padding 1 on every side.

    The padding is spelled out because "SAME" pads a strided convolution at the end only, unlike PyTorch.
    """
    return nnx.Conv(
        width_in,
        width_out,
        kernel_size=(3, 3),
        strides=stride,
        padding=((1, 1), (1, 1)),
        kernel_init=nnx.initializers.zeros if zero else kernel_init,
        conv_general_dilated=_convolve,
        dtype=policy.compute,
        param_dtype=policy.param,
        rngs=rngs,
    )


def _convolve(x: jax.Array, kernel: jax.Array, strides, padding, **settings) -> jax.Array:
    """A convolution of x [B,h,w,C]; where the window has more cells than the image, as one matrix product.

    There XLA takes the image for the window and the window for the image, which costs a CPU fifty times as much.
    """
    height, width, _, out = kernel.shape
    if x.shape[1] * x.shape[2] >= height * width:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **settings)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    window = [x[:, i : i + rows : strides[0], j : j + columns : strides[1]] for i in range(height) for j in range(width)]
    return jnp.matmul(jnp.concatenate(window, axis=-1), kernel.reshape(-1, out))


def layer_norm(width: int, rngs: nnx.Rngs, policy: Policy):
    """Returns a LayerNorm over the last axis, epsilon 1e-5, with float32 statistics."""
    return nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, dtype=policy.compute, param_dtype=policy.param, rngs=rngs)


class Strength(nnx.Module):
    """A number that is learnt and starts at zero: what it multiplies is not there at first."""

    def __init__(self, policy: Policy):
        self.value = nnx.Param(jnp.zeros((1,), policy.param))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [...] times the number: the same shape, in x's dtype."""
        return x * self.value[...].astype(x.dtype)


class GroupNorm(nnx.Module):
    """Group normalisation of each row of the batch, over all axes between the first and the last and over each group.

    Statistics are float32. Sums run over positions first and groups second, which keeps the channels contiguous.
    """

    def __init__(self, width: int, groups: int, rngs: nnx.Rngs, policy: Policy, epsilon: float = 1e-5):
        if width % groups:
            raise ValueError(f"GroupNorm: {width} channels do not divide into {groups} groups.")
        self.groups = groups
        self.epsilon = epsilon
        self.compute = policy.compute
        self.scale = nnx.Param(jnp.ones((width,), policy.param))
        self.bias = nnx.Param(jnp.zeros((width,), policy.param))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises x [B,...,C]; returns the same shape in the compute dtype."""
        batch, width = x.shape[0], x.shape[-1]
        flat = x.astype(jnp.float32).reshape(batch, -1, width)
        centred = flat - self._group_mean(flat)
        variance = self._group_mean(jnp.square(centred))
        scale = jax.lax.rsqrt(variance + self.epsilon) * self.scale[...].astype(jnp.float32)
        return (centred * scale + self.bias[...].astype(jnp.float32)).reshape(x.shape).astype(self.compute)

    def _group_mean(self, x: jax.Array) -> jax.Array:
        """Means of x [B,N,C] over positions and each group, repeated for the group's channels: [B,1,C]."""
        batch, _, width = x.shape
        means = x.mean(axis=1).reshape(batch, self.groups, -1).mean(axis=-1)
        return jnp.repeat(means, width // self.groups, axis=1)[:, None, :]


class FeedForward(nnx.Module):
    """GEGLU feed-forward: the first half of `proj` times the exact GELU of the second, then `out`."""

    def __init__(self, width: int, mult: int, rngs: nnx.Rngs, policy: Policy):
        self.proj = linear(width, 2 * mult * width, rngs, policy)
        self.out = linear(mult * width, width, rngs, policy)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [...,D] -> [...,D]."""
        value, gate = jnp.split(self.proj(x), 2, axis=-1)
        return self.out(value * jax.nn.gelu(gate, approximate=False))


def time_sinusoid(t: jax.Array, width: int) -> jax.Array:
    """Sinusoids of timesteps t [B]: cosines then sines, [B,width] float32 (`flip_sin_to_cos`, no frequency shift)."""
    half = width // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def place_sinusoids(shape: tuple[int, int, int]) -> jax.Array:
    """Sinusoids of each cell's place, float32 [h,w,C]: half the channels for its row, half for its column.

    From half a period over the longer side up to one period in four cells.
    """
    height, width, channels = shape
    longest = max(height, width)
    frequencies = jnp.pi * jnp.geomspace(1.0, max(longest / 2, 1.0), -(-channels // 4))

    def one_axis(length):
        angles = (jnp.arange(length) + 0.5)[:, None] / longest * frequencies
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)

    rows, columns = one_axis(height)[:, None], one_axis(width)[None]
    both = jnp.concatenate([rows + 0 * columns, columns + 0 * rows], -1)
    return both[..., :channels]


class TimeEmbedding(nnx.Module):
    """Timesteps to the vector that every resnet block reads: sinusoid, linear, SiLU, linear."""

    def __init__(self, width: int, rngs: nnx.Rngs, policy: Policy):
        self.width = width
        self.compute = policy.compute
        self.linear_1 = linear(width, 4 * width, rngs, policy)
        self.linear_2 = linear(4 * width, 4 * width, rngs, policy)

    def __call__(self, t: jax.Array) -> jax.Array:
        """t [B], 0..steps-1 -> [B,4*width]."""
        return self.linear_2(jax.nn.silu(self.linear_1(time_sinusoid(t, self.width).astype(self.compute))))


def upsample_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Doubles x [B,h,w,C] and crops it to `size`, which is 2h or 2h-1 by 2w or 2w-1.

    For these sizes this is PyTorch's nearest interpolation: floor(i*h/(2h-1)) equals i//2.
    """
    return repeat(x, "b h w c -> b (h down) (w across) c", down=2, across=2)[:, : size[0], : size[1]]


def fold_patches(x: jax.Array, patch: int) -> jax.Array:
    """[B,H,W,C] -> [B,H/patch,W/patch,patch*patch*C]: squares of pixels folded into channels."""
    return rearrange(x, "b (h row) (w column) c -> b h w (row column c)", row=patch, column=patch)


def unfold_patches(x: jax.Array, patch: int) -> jax.Array:
    """The inverse of `fold_patches`: [B,h,w,patch*patch*C] -> [B,h*patch,w*patch,C]."""
    return rearrange(x, "b h w (row column c) -> b (h row) (w column) c", row=patch, column=patch)
