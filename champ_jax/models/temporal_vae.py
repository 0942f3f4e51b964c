"""The autoencoder of Stable Video Diffusion (diffusers' AutoencoderKLTemporalDecoder), at any size.

Its encoder is the image autoencoder's, frame by frame; its decoder sees the neighbouring frames too, which takes away
flicker. Frames are channels last in [-1, 1].
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.dims import check_shape
from champ_jax.errors import UserError
from champ_jax.models.vae import EPSILON, Attention, Encoder, Residual, VAEConfig, mean_and_logvar
from champ_jax.nn.frames import fold_frames, frame_conv, unfold_frames
from champ_jax.nn.layers import GroupNorm, conv, linear, upsample_nearest
from champ_jax.nn.policy import Policy


@dataclasses.dataclass(frozen=True)
class TemporalVAEConfig:
    """Geometry of the autoencoder; the defaults are Stable Video Diffusion's.

    Attributes:
      channels: width of each resolution, the finest first; every step but the last halves the size.
      layers: residual blocks a resolution in the encoder; the decoder has one more.
      groups: groups of the norms.
      latent_channels: channels of the latents.
      scaling: what latents are multiplied by to have about unit variance.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    groups: int = 32
    latent_channels: int = 4
    scaling: float = 0.18215

    def __post_init__(self):
        if not self.channels or any(width % self.groups for width in self.channels):
            raise UserError(f"temporal_vae: channels {self.channels} must all divide into {self.groups} groups.")

    @property
    def downsampling(self) -> int:
        """Pixels of a frame to one latent cell, along each side."""
        return 2 ** (len(self.channels) - 1)

    def image(self) -> VAEConfig:
        """The image autoencoder with the same encoder."""
        return VAEConfig(**dataclasses.asdict(self))


class FrameResidual(nnx.Module):
    """norm, SiLU, convolution over frames, twice, + input; the norms' statistics are those of the whole clip."""

    def __init__(self, width: int, groups: int, rngs: nnx.Rngs, policy: Policy):
        self.norm1 = GroupNorm(width, groups, rngs, policy)
        self.conv1 = frame_conv(width, width, rngs, policy)
        self.norm2 = GroupNorm(width, groups, rngs, policy)
        self.conv2 = frame_conv(width, width, rngs, policy, zero=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,F,h,w,C] -> [B,F,h,w,C]."""
        hidden = self.conv1(jax.nn.silu(self.norm1(x)))
        return x + self.conv2(jax.nn.silu(self.norm2(hidden)))


class VideoResidual(nnx.Module):
    """A residual block in each frame, then one over frames, of which the sigmoid of `mix` says how much is taken."""

    def __init__(self, width_in: int, width_out: int, groups: int, rngs: nnx.Rngs, policy: Policy):
        self.spatial = Residual(width_in, width_out, groups, rngs, policy)
        self.temporal = FrameResidual(width_out, groups, rngs, policy)
        self.mix = nnx.Param(jnp.zeros((1,), policy.param))

    def __call__(self, x: jax.Array, batch: int) -> jax.Array:
        """x [B*F,h,w,C] with B = `batch` -> [B*F,h,w,C']."""
        x = self.spatial(x)
        along = fold_frames(self.temporal(unfold_frames(x, batch)))
        share = jax.nn.sigmoid(self.mix[...].astype(jnp.float32)).astype(x.dtype)
        return (1 - share) * x + share * along


class VideoMiddle(nnx.Module):
    """The coarsest resolution: residual block, attention in each frame, residual block.

    With one layer only the first block is left, and beyond two there are no more: diffusers' class never calls them.
    """

    def __init__(self, config: TemporalVAEConfig, rngs: nnx.Rngs, policy: Policy):
        width, self.whole = config.channels[-1], config.layers > 1
        self.resnet_0 = VideoResidual(width, width, config.groups, rngs, policy)
        if self.whole:
            self.attention = Attention(width, config.groups, rngs, policy)
            self.resnet_1 = VideoResidual(width, width, config.groups, rngs, policy)

    def __call__(self, x: jax.Array, batch: int) -> jax.Array:
        """x [B*F,h,w,C] with B = `batch` -> [B*F,h,w,C]."""
        x = self.resnet_0(x, batch)
        return self.resnet_1(self.attention(x), batch) if self.whole else x


class VideoUp(nnx.Module):
    """Residual blocks of one resolution, then doubling and a convolution (not at the finest)."""

    def __init__(self, width_in: int, width: int, double: bool, config: TemporalVAEConfig, rngs: nnx.Rngs, policy: Policy):
        self.layers = config.layers + 1
        for i in range(self.layers):
            setattr(self, f"resnet_{i}", VideoResidual(width if i else width_in, width, config.groups, rngs, policy))
        self.upsample = conv(width, width, rngs, policy) if double else None

    def __call__(self, x: jax.Array, batch: int) -> jax.Array:
        """x [B*F,h,w,C] with B = `batch` -> [B*F,2h,2w,C'], or [B*F,h,w,C'] at the finest."""
        for i in range(self.layers):
            x = getattr(self, f"resnet_{i}")(x, batch)
        if self.upsample is None:
            return x
        return self.upsample(upsample_nearest(x, (2 * x.shape[1], 2 * x.shape[2])))


class VideoDecoder(nnx.Module):
    """Latents to frames; submodules conv_in, mid, up_0.. (the coarsest first), norm_out, conv_out, conv_frames."""

    def __init__(self, config: TemporalVAEConfig, rngs: nnx.Rngs, policy: Policy):
        channels, last = config.channels[::-1], len(config.channels) - 1
        self.levels = len(channels)
        self.conv_in = conv(config.latent_channels, channels[0], rngs, policy)
        self.mid = VideoMiddle(config, rngs, policy)
        for i, width in enumerate(channels):
            setattr(self, f"up_{i}", VideoUp(channels[max(i - 1, 0)], width, i < last, config, rngs, policy))
        self.norm_out = GroupNorm(channels[-1], config.groups, rngs, policy, EPSILON)
        self.conv_out = conv(channels[-1], 3, rngs, policy)
        self.conv_frames = frame_conv(3, 3, rngs, policy)

    def __call__(self, z: jax.Array) -> jax.Array:
        """z [B,F,h,w,latent_channels] -> [B,F,H,W,3]."""
        batch = z.shape[0]
        x = self.mid(self.conv_in(fold_frames(z)), batch)
        for i in range(self.levels):
            x = getattr(self, f"up_{i}")(x, batch)
        return self.conv_frames(unfold_frames(self.conv_out(jax.nn.silu(self.norm_out(x))), batch))


class TemporalVAE(nnx.Module):
    """Encodes frames one by one and decodes clips; both work on unscaled latents. Submodules encoder, quant_conv, decoder."""

    def __init__(self, config: TemporalVAEConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its geometry; rngs the source of initial parameters; policy its precision."""
        self.config = config
        moments = 2 * config.latent_channels
        self.encoder = Encoder(config.image(), rngs, policy)
        self.quant_conv = linear(moments, moments, rngs, policy)
        self.decoder = VideoDecoder(config, rngs, policy)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Frames [...,H,W,3] in [-1,1] -> mean and log variance, [...,h,w,c] each, the latter clamped to [-30,20].

        Raises:
          UserError: H or W is not a multiple of the downsampling.
        """
        step = self.config.downsampling
        if x.shape[-3] % step or x.shape[-2] % step:
            raise UserError(f"frames: height and width must be multiples of {step} for the VAE, got {x.shape[-3:-1]}.")
        moments = self.quant_conv(self.encoder(x.reshape(-1, *x.shape[-3:])))
        return mean_and_logvar(moments.reshape(*x.shape[:-3], *moments.shape[1:]))

    def decode(self, z: jax.Array) -> jax.Array:
        """Latents z [B,F,h,w,c] of clips -> frames [B,F,H,W,3], about [-1,1] but not clipped.

        Every frame depends on all of its clip, through the norms: long videos are decoded in clips of the same length.
        """
        check_shape("latents", z, f"B F h w {self.config.latent_channels}")
        return self.decoder(z)
