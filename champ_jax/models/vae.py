"""The Stable Diffusion image autoencoder (diffusers' AutoencoderKL), at any size.

Images are channels last in [-1, 1]. With the default configuration it is sd-vae-ft-mse, parameter for parameter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from champ_jax.errors import UserError
from champ_jax.nn.kernels import attend
from champ_jax.nn.layers import GroupNorm, conv, fold_patches, linear, unfold_patches, upsample_nearest
from champ_jax.nn.policy import Policy

LOGVAR_RANGE = (-30.0, 20.0)
EPSILON = 1e-6
# How a norm is applied: norm(layer, x) -> x normalised. Tiles of one picture share the picture's statistics.
Norm = Callable[[GroupNorm, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Geometry of the autoencoder; the defaults are Stable Diffusion's.

    Attributes:
      channels: width of each resolution, the finest first; every step but the last halves the size. Without any the
        latents are a linear function of the patches, and `layers` and `groups` mean nothing.
      layers: residual blocks a resolution in the encoder; the decoder has one more.
      groups: groups of the norms.
      latent_channels: channels of the latents.
      patch: squares of patch x patch pixels are folded into channels first, so that a small model pays for no
        convolution at full size.
      scaling: what latents are multiplied by to have about unit variance.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    groups: int = 32
    latent_channels: int = 4
    patch: int = 1
    scaling: float = 0.18215

    def __post_init__(self):
        if any(width % self.groups for width in self.channels):
            raise UserError(f"vae: channels {self.channels} must all divide into {self.groups} groups.")

    @property
    def downsampling(self) -> int:
        """Pixels of the image to one latent cell, along each side."""
        return self.patch * 2 ** max(len(self.channels) - 1, 0)


def own_norm(layer: GroupNorm, x: jax.Array) -> jax.Array:
    """The layer on x [B,h,w,C] with the statistics of x itself; the same shape."""
    return layer(x)


class Residual(nnx.Module):
    """norm, SiLU, conv, twice, + input (through a linear layer where the widths differ)."""

    def __init__(self, width_in: int, width_out: int, groups: int, rngs: nnx.Rngs, policy: Policy):
        self.norm1 = GroupNorm(width_in, groups, rngs, policy, EPSILON)
        self.conv1 = conv(width_in, width_out, rngs, policy)
        self.norm2 = GroupNorm(width_out, groups, rngs, policy, EPSILON)
        self.conv2 = conv(width_out, width_out, rngs, policy)
        self.shortcut = linear(width_in, width_out, rngs, policy) if width_in != width_out else None

    def __call__(self, x: jax.Array, norm: Norm = own_norm) -> jax.Array:
        """x [B,h,w,C] -> [B,h,w,C']."""
        hidden = self.conv1(jax.nn.silu(norm(self.norm1, x)))
        hidden = self.conv2(jax.nn.silu(norm(self.norm2, hidden)))
        return hidden + (x if self.shortcut is None else self.shortcut(x))


class Attention(nnx.Module):
    """Single-head self-attention over all positions, + input; unlike the UNet's, all its layers have biases."""

    def __init__(self, width: int, groups: int, rngs: nnx.Rngs, policy: Policy):
        self.norm = GroupNorm(width, groups, rngs, policy, EPSILON)
        self.to_q = linear(width, width, rngs, policy)
        self.to_k = linear(width, width, rngs, policy)
        self.to_v = linear(width, width, rngs, policy)
        self.to_out = linear(width, width, rngs, policy)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,C] -> [B,h,w,C]."""
        tokens = rearrange(self.norm(x), "b h w c -> b (h w) 1 c")
        return x + self.to_out(attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))).reshape(x.shape)


class Middle(nnx.Module):
    """The coarsest resolution: residual block, attention, residual block."""

    def __init__(self, config: VAEConfig, rngs: nnx.Rngs, policy: Policy):
        width = config.channels[-1]
        self.resnet_0 = Residual(width, width, config.groups, rngs, policy)
        self.attention = Attention(width, config.groups, rngs, policy)
        self.resnet_1 = Residual(width, width, config.groups, rngs, policy)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,C] -> [B,h,w,C]."""
        return self.resnet_1(self.attention(self.resnet_0(x)))


class Down(nnx.Module):
    """Residual blocks of one resolution, then a convolution that halves it (not at the coarsest)."""

    def __init__(self, width_in: int, width: int, halve: bool, config: VAEConfig, rngs: nnx.Rngs, policy: Policy):
        self.layers = config.layers
        for i in range(config.layers):
            setattr(self, f"resnet_{i}", Residual(width if i else width_in, width, config.groups, rngs, policy))
        # Stable Diffusion's VAE pads below and on the right only; its UNet pads on every side.
        padding = ((0, 1), (0, 1))
        dtypes = {"dtype": policy.compute, "param_dtype": policy.param}
        self.downsample = nnx.Conv(width, width, (3, 3), 2, padding=padding, rngs=rngs, **dtypes) if halve else None

    def __call__(self, x: jax.Array, norm: Norm = own_norm) -> jax.Array:
        """x [B,h,w,C] -> [B,h/2,w/2,C'], or [B,h,w,C'] at the coarsest."""
        for i in range(self.layers):
            x = getattr(self, f"resnet_{i}")(x, norm)
        return x if self.downsample is None else self.downsample(x)


class Up(nnx.Module):
    """Residual blocks of one resolution, one more than in `Down`, then doubling and a convolution (not at the finest)."""

    def __init__(self, width_in: int, width: int, double: bool, config: VAEConfig, rngs: nnx.Rngs, policy: Policy):
        self.layers = config.layers + 1
        for i in range(self.layers):
            setattr(self, f"resnet_{i}", Residual(width if i else width_in, width, config.groups, rngs, policy))
        self.upsample = conv(width, width, rngs, policy) if double else None

    def __call__(self, x: jax.Array, norm: Norm = own_norm) -> jax.Array:
        """x [B,h,w,C] -> [B,2h,2w,C'], or [B,h,w,C'] at the finest."""
        for i in range(self.layers):
            x = getattr(self, f"resnet_{i}")(x, norm)
        if self.upsample is None:
            return x
        return self.upsample(upsample_nearest(x, (2 * x.shape[1], 2 * x.shape[2])))


class Encoder(nnx.Module):
    """Images to moments; submodules conv_in, down_0.. (the finest first), mid, norm_out, conv_out."""

    def __init__(self, config: VAEConfig, rngs: nnx.Rngs, policy: Policy):
        channels, last = config.channels, len(config.channels) - 1
        self.patch, self.levels = config.patch, len(channels)
        self.conv_in = conv(3 * config.patch**2, channels[0], rngs, policy)
        for i, width in enumerate(channels):
            setattr(self, f"down_{i}", Down(channels[max(i - 1, 0)], width, i < last, config, rngs, policy))
        self.mid = Middle(config, rngs, policy)
        self.norm_out = GroupNorm(channels[-1], config.groups, rngs, policy, EPSILON)
        self.conv_out = conv(channels[-1], 2 * config.latent_channels, rngs, policy)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,H,W,3] -> [B,h,w,2*latent_channels]."""
        return self.coarse(self.fine(x))

    def fine(self, x: jax.Array, norm: Norm = own_norm) -> jax.Array:
        """All but the coarsest resolution: x [B,H,W,3] -> [B,h,w,C]."""
        x = self.conv_in(fold_patches(x, self.patch))
        for i in range(self.levels - 1):
            x = getattr(self, f"down_{i}")(x, norm)
        return x

    def coarse(self, x: jax.Array) -> jax.Array:
        """The rest: x [B,h,w,C] -> [B,h,w,2*latent_channels]."""
        x = self.mid(getattr(self, f"down_{self.levels - 1}")(x))
        return self.conv_out(jax.nn.silu(self.norm_out(x)))


class Decoder(nnx.Module):
    """Latents to images; submodules conv_in, mid, up_0.. (the coarsest first), norm_out, conv_out."""

    def __init__(self, config: VAEConfig, rngs: nnx.Rngs, policy: Policy):
        channels, last = config.channels[::-1], len(config.channels) - 1
        self.patch, self.levels = config.patch, len(channels)
        self.conv_in = conv(config.latent_channels, channels[0], rngs, policy)
        self.mid = Middle(config, rngs, policy)
        for i, width in enumerate(channels):
            setattr(self, f"up_{i}", Up(channels[max(i - 1, 0)], width, i < last, config, rngs, policy))
        self.norm_out = GroupNorm(channels[-1], config.groups, rngs, policy, EPSILON)
        self.conv_out = conv(channels[-1], 3 * config.patch**2, rngs, policy)

    def __call__(self, z: jax.Array) -> jax.Array:
        """z [B,h,w,latent_channels] -> [B,H,W,3]."""
        return self.fine(self.coarse(z))

    def coarse(self, z: jax.Array) -> jax.Array:
        """The coarsest resolution, and the doubling after it: z [B,h,w,latent_channels] -> [B,2h,2w,C]."""
        return self.up_0(self.mid(self.conv_in(z)))

    def fine(self, x: jax.Array, norm: Norm = own_norm) -> jax.Array:
        """The rest: x [B,2h,2w,C] -> [B,H,W,3]."""
        for i in range(1, self.levels):
            x = getattr(self, f"up_{i}")(x, norm)
        return unfold_patches(self.conv_out(jax.nn.silu(norm(self.norm_out, x))), self.patch)


class VAE(nnx.Module):
    """Encodes images to a normal distribution of latents and decodes latents; both work on unscaled latents."""

    def __init__(self, config: VAEConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its geometry; rngs the source of initial parameters; policy its precision."""
        self.config = config
        moments, latents, pixels = 2 * config.latent_channels, config.latent_channels, 3 * config.patch**2
        self.encoder = Encoder(config, rngs, policy) if config.channels else None
        self.quant_conv = linear(moments if config.channels else pixels, moments, rngs, policy)
        self.post_quant_conv = linear(latents, latents if config.channels else pixels, rngs, policy)
        self.decoder = Decoder(config, rngs, policy) if config.channels else None

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images [...,H,W,3] in [-1,1] -> mean and log variance, [...,h,w,c] each, the latter clamped to [-30,20].

        Raises:
          UserError: H or W is not a multiple of the downsampling.
        """
        step = self.config.downsampling
        if x.shape[-3] % step or x.shape[-2] % step:
            raise UserError(f"image: height and width must be multiples of {step} for the VAE, got {x.shape[-3:-1]}.")
        images = x.reshape(-1, *x.shape[-3:])
        hidden = fold_patches(images, self.config.patch) if self.encoder is None else self.encoder(images)
        moments = self.quant_conv(hidden)
        return mean_and_logvar(moments.reshape(*x.shape[:-3], *moments.shape[1:]))

    def decode(self, z: jax.Array) -> jax.Array:
        """Latents [...,h,w,c] -> images [...,H,W,3], about [-1,1] but not clipped."""
        hidden = self.post_quant_conv(z.reshape(-1, *z.shape[-3:]))
        x = unfold_patches(hidden, self.config.patch) if self.decoder is None else self.decoder(hidden)
        return x.reshape(*z.shape[:-3], *x.shape[1:])


def mean_and_logvar(moments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What an encoder says of latents, [...,2c], as their mean and log variance [...,c], the latter clamped to LOGVAR_RANGE."""
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(logvar, *LOGVAR_RANGE)


def vae_latents(vae: VAE, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """Scaled latents [...,h,w,c] of images [...,H,W,3] in [-1,1]: the mean, or a sample if a key is given."""
    return latents_of(vae, *vae.encode(images), key)


def latents_of(vae: VAE, mean: jax.Array, logvar: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """Scaled latents [...,h,w,c] of what the VAE's encoder gives: the mean, or a sample if a key is given."""
    if key is not None:
        mean = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape, mean.dtype)
    return mean * vae.config.scaling


def vae_images(vae: VAE, latents: jax.Array) -> jax.Array:
    """Images [...,H,W,3], float32 in [0,1], of scaled latents [...,h,w,c]."""
    images = vae.decode(latents / vae.config.scaling).astype(jnp.float32)
    return jnp.clip(images / 2 + 0.5, 0.0, 1.0)
