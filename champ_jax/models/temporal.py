"""Temporal attention after each spatial layer: AnimateDiff's `VanillaTemporalModule`."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.errors import UserError
from champ_jax.nn.attention import Attention
from champ_jax.nn.frames import unfold_frames
from champ_jax.nn.layers import FeedForward, GroupNorm, layer_norm, linear
from champ_jax.nn.policy import Policy


@dataclasses.dataclass(frozen=True)
class TemporalConfig:
    """Geometry of the temporal modules.

    Attributes:
      heads: attention heads over frames.
      groups: groups of the norm in front; AnimateDiff has 32 at every width.
      max_frames: longest window; positions are sinusoids and restart at 0 in every window.
      blocks: transformer blocks a module.
      attentions: attentions over frames in each block.
      ff_mult: width of the feed-forward, in widths.
      mid: whether the coarsest level has a module; AnimateDiff's v1 and v3 have none there.
      clip_norm: whether the norm in front has the whole clip's statistics, as diffusers has it, which changes what the same
        weights do; AnimateDiff, and CHAMP with it, has each frame's own.
    """

    heads: int = 8
    groups: int = 32
    max_frames: int = 32
    blocks: int = 1
    attentions: int = 2
    ff_mult: int = 4
    mid: bool = True
    clip_norm: bool = False


def frame_positions(frames: int, width: int) -> jax.Array:
    """Sinusoidal positions [F,width] float32: sines at even channels, cosines at odd ones."""
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = jnp.arange(frames, dtype=jnp.float32)[:, None] * frequencies
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(frames, width)


class TemporalBlock(nnx.Module):
    """Pre-norm transformer block over frames, with positions added to every attention's input."""

    def __init__(self, width: int, config: TemporalConfig, rngs: nnx.Rngs, policy: Policy):
        self.attentions = config.attentions
        for i in range(config.attentions):
            setattr(self, f"norm_{i}", layer_norm(width, rngs, policy))
            setattr(self, f"attn_{i}", Attention(width, config.heads, rngs, policy))
        self.norm_ff = layer_norm(width, rngs, policy)
        self.ff = FeedForward(width, config.ff_mult, rngs, policy)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B*N,F,D] -> [B*N,F,D]."""
        positions = frame_positions(x.shape[1], x.shape[2])
        for i in range(self.attentions):
            normed = getattr(self, f"norm_{i}")(x)
            x = x + getattr(self, f"attn_{i}")(normed + positions.astype(normed.dtype))
        return x + self.ff(self.norm_ff(x))


class TemporalModule(nnx.Module):
    """norm of each frame (or of the clip), proj_in, blocks over the frames of each position, proj_out (zero at first), + input."""

    def __init__(self, width: int, config: TemporalConfig, rngs: nnx.Rngs, policy: Policy):
        self.max_frames = config.max_frames
        self.blocks = config.blocks
        self.clip_norm = config.clip_norm
        self.norm = GroupNorm(width, config.groups, rngs, policy, epsilon=1e-6)
        self.proj_in = linear(width, width, rngs, policy)
        for i in range(config.blocks):
            setattr(self, f"block_{i}", TemporalBlock(width, config, rngs, policy))
        self.proj_out = linear(width, width, rngs, policy, zero=True)

    def __call__(self, x: jax.Array, batch: int) -> jax.Array:
        """x [B*F,h,w,C] with B = `batch` -> the same shape.

        Raises:
          UserError: more frames than the positions reach.
        """
        rows, height, width, channels = x.shape
        frames = rows // batch
        if frames > self.max_frames:
            raise UserError(
                f"temporal attention: a window of {frames} frames, but this model reaches {self.max_frames}; "
                "use shorter windows, or a model with a larger temporal.max_frames."
            )
        normed = self.norm(unfold_frames(x, batch) if self.clip_norm else x)
        hidden = self.proj_in(normed).reshape(batch, frames, height * width, channels)
        hidden = hidden.swapaxes(1, 2).reshape(batch * height * width, frames, channels)
        for i in range(self.blocks):
            hidden = getattr(self, f"block_{i}")(hidden)
        hidden = self.proj_out(hidden).reshape(batch, height * width, frames, channels)
        return hidden.swapaxes(1, 2).reshape(x.shape) + x
