"""The temporal layers of ModelScope's text-to-video model (diffusers' UNet3DConditionModel), and the model as a whole.

Its spatial part is our UNet. After each resnet stands a stack of convolutions over frames, after each spatial attention a
transformer over frames, and one more transformer after the first convolution.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.dims import check_shape
from champ_jax.errors import UserError
from champ_jax.models.unet import Conditions, Level, UNet
from champ_jax.nn.attention import Attention
from champ_jax.nn.frames import frame_conv, unfold_frames
from champ_jax.nn.layers import FeedForward, GroupNorm, layer_norm, linear, upsample_nearest
from champ_jax.nn.policy import Policy

STACKED = 4
"""Convolutions in each stack."""


@dataclasses.dataclass(frozen=True)
class ModelScopeConfig:
    """Geometry of the temporal layers; the defaults are ModelScope's.

    Attributes:
      channels, attention_levels, layers: as of the UNet that they belong to.
      head_dim: width of each attention head, at every level.
      first_heads: heads of the first transformer, which is first_heads * head_dim wide whatever its input is.
      groups: groups of the norms.
      ff_mult: width of the feed-forwards, in widths.
    """

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    layers: int = 2
    head_dim: int = 64
    first_heads: int = 8
    groups: int = 32
    ff_mult: int = 4

    def __post_init__(self):
        if len(self.channels) != len(self.attention_levels):
            raise UserError(f"temporal_modelscope: channels {self.channels} and attention_levels {self.attention_levels} differ in number.")
        for width in self.channels:
            if width % self.head_dim or width % self.groups:
                raise UserError(f"temporal_modelscope: width {width} must divide into heads of {self.head_dim} and {self.groups} groups.")


class TemporalConv(nnx.Module):
    """Four times norm, SiLU, convolution over frames, + input; nothing at first (diffusers' TemporalConvLayer).

    The norms' statistics are those of the whole clip.
    """

    def __init__(self, width: int, groups: int, rngs: nnx.Rngs, policy: Policy):
        for i in range(1, STACKED + 1):
            setattr(self, f"norm{i}", GroupNorm(width, groups, rngs, policy))
            setattr(self, f"conv{i}", frame_conv(width, width, rngs, policy, zero=i == STACKED))

    def __call__(self, x: jax.Array, batch: int) -> jax.Array:
        """x [B*F,h,w,C] with B = `batch` -> the same shape."""
        hidden = unfold_frames(x, batch)
        for i in range(1, STACKED + 1):
            hidden = getattr(self, f"conv{i}")(jax.nn.silu(getattr(self, f"norm{i}")(hidden)))
        return x + hidden.reshape(x.shape)


class TemporalTransformer(nnx.Module):
    """norm of the clip, proj_in, one block over the frames of each position, proj_out (zero at first), + input.

    diffusers' TransformerTemporalModel: both attentions of the block are over frames, and it has no positions.
    """

    def __init__(self, width: int, heads: int, head_dim: int, groups: int, ff_mult: int, rngs: nnx.Rngs, policy: Policy):
        inner = heads * head_dim
        self.norm = GroupNorm(width, groups, rngs, policy, epsilon=1e-6)
        self.proj_in = linear(width, inner, rngs, policy)
        self.norm1 = layer_norm(inner, rngs, policy)
        self.attn1 = Attention(inner, heads, rngs, policy)
        self.norm2 = layer_norm(inner, rngs, policy)
        self.attn2 = Attention(inner, heads, rngs, policy)
        self.norm3 = layer_norm(inner, rngs, policy)
        self.ff = FeedForward(inner, ff_mult, rngs, policy)
        self.proj_out = linear(inner, width, rngs, policy, zero=True)

    def __call__(self, x: jax.Array, batch: int) -> jax.Array:
        """x [B*F,h,w,C] with B = `batch` -> the same shape."""
        hidden = self.proj_in(self.norm(unfold_frames(x, batch)))
        _, frames, height, width, inner = hidden.shape
        hidden = hidden.reshape(batch, frames, height * width, inner).swapaxes(1, 2).reshape(-1, frames, inner)
        hidden = hidden + self.attn1(self.norm1(hidden))
        hidden = hidden + self.attn2(self.norm2(hidden))
        hidden = self.proj_out(hidden + self.ff(self.norm3(hidden)))
        return x + hidden.reshape(batch, height * width, frames, -1).swapaxes(1, 2).reshape(x.shape)


class TemporalLevel(nnx.Module):
    """The temporal layers of one level of a UNet: conv_i, and attention_i where the level has spatial attention."""

    def __init__(self, width: int, convs: int, attentions: int, config: ModelScopeConfig, rngs: nnx.Rngs, policy: Policy):
        for i in range(convs):
            setattr(self, f"conv_{i}", TemporalConv(width, config.groups, rngs, policy))
        for i in range(attentions):
            setattr(self, f"attention_{i}", _transformer(width, width // config.head_dim, config, rngs, policy))


def _transformer(width, heads, config, rngs, policy):
    return TemporalTransformer(width, heads, config.head_dim, config.groups, config.ff_mult, rngs, policy)


class ModelScopeTemporal(nnx.Module):
    """All temporal layers; submodules first, down_0.., mid, up_0.. (the coarsest first), named as the UNet's levels."""

    def __init__(self, config: ModelScopeConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its geometry; rngs the source of initial parameters; policy its precision."""
        self.config = config
        levels = list(zip(config.channels, config.attention_levels))
        self.first = _transformer(config.channels[0], config.first_heads, config, rngs, policy)
        for side, widths, layers in (("down", levels, config.layers), ("up", levels[::-1], config.layers + 1)):
            for i, (width, attention) in enumerate(widths):
                setattr(self, f"{side}_{i}", TemporalLevel(width, layers, layers * attention, config, rngs, policy))
        self.mid = TemporalLevel(config.channels[-1], 2, 1, config, rngs, policy)

    def __call__(self, unet: UNet, latents: jax.Array, t: jax.Array, context: jax.Array) -> jax.Array:
        """Predicts from noisy latents with these layers between those of `unet`.

        Args:
          unet: the spatial part, of the same channels, attention_levels and layers.
          latents: [B,F,h,w,C], any h and w.
          t: timesteps, [B] or a scalar for all.
          context: tokens [B,L,Dc].

        Returns:
          [B,F,h,w,out_channels] in the compute dtype.
        """
        sizes = check_shape("latents", latents, f"B F h w {unet.config.in_channels}")
        check_shape("context", context, f"B L {unet.config.context_dim}", sizes)
        cond = unet.conditions(latents.shape[0], t, context)
        x = unet.conv_in(latents.astype(unet.compute).reshape(-1, *latents.shape[2:]))
        x = self.first(x, cond.batch)
        skips = [x]
        for i in range(len(self.config.channels)):
            level = getattr(unet, f"down_{i}")
            for j in range(self.config.layers):
                x = _layer(level, getattr(self, f"down_{i}"), j, x, cond)
                skips.append(x)
            if level.downsample is not None:
                x = level.downsample(x)
                skips.append(x)
        x = _layer(unet.mid, self.mid, 0, x, cond)
        x = _layer(unet.mid, self.mid, 1, x, cond)
        for i in range(len(self.config.channels)):
            level = getattr(unet, f"up_{i}")
            for j in range(self.config.layers + 1):
                x = _layer(level, getattr(self, f"up_{i}"), j, jnp.concatenate([x, skips.pop()], -1), cond)
            if level.upsample is not None:
                x = level.upsample(upsample_nearest(x, skips[-1].shape[1:3]))
        x = unet.conv_out(jax.nn.silu(unet.norm_out(x)))
        return x.reshape(*latents.shape[:-1], -1)


def _layer(level: Level, own: TemporalLevel, i: int, x: jax.Array, cond: Conditions) -> jax.Array:
    """Layer i of a level and its temporal layers on x [B*F,h,w,C]."""
    x = getattr(own, f"conv_{i}")(getattr(level, f"resnet_{i}")(x, cond.time), cond.batch)
    if hasattr(own, f"attention_{i}"):
        x, _ = getattr(level, f"attention_{i}")(x, cond.context, batch=cond.batch)
        x = getattr(own, f"attention_{i}")(x, cond.batch)
    return x
