"""Temporal modules after each spatial layer: those of each kind, and AnimateDiff's `VanillaTemporalModule`.

Every kind is called as module(x [B*F,h,w,C], batch=B) and gives the same shape; its last layer is zero at first, so that a
UNet with new modules does what it did without. The others are in temporal_modelscope.py and temporal_kinds.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.errors import UserError
from champ_jax.models.temporal_kinds import OWN
from champ_jax.models.temporal_modelscope import TemporalConv, TemporalTransformer
from champ_jax.models.unet_config import TemporalConfig
from champ_jax.nn.attention import Attention
from champ_jax.nn.frames import over_frames, to_frames, unfold_frames
from champ_jax.nn.layers import FeedForward, GroupNorm, layer_norm, linear
from champ_jax.nn.policy import Policy


def temporal_layers(width: int, attention: bool, config: TemporalConfig, rngs: nnx.Rngs, policy: Policy) -> dict[str, nnx.Module]:
    """The temporal modules of one layer of a UNet: "temporal_conv", run after its resnet, and "temporal", run at its end.

    attention: whether the layer has spatial attention; only ModelScope minds.
    """
    if config.kind == "modelscope":
        layers = {"temporal_conv": TemporalConv(width, config.groups, rngs, policy)}
        if attention:
            heads = config.heads_at(width)
            layers["temporal"] = TemporalTransformer(width, heads, width // heads, config.groups, config.ff_mult, rngs, policy)
        return layers
    module = TemporalModule if config.kind == "animatediff" else OWN[config.kind]
    return {"temporal": module(width, config, rngs, policy)}


def first_transformer(width: int, config: TemporalConfig, rngs: nnx.Rngs, policy: Policy) -> TemporalTransformer:
    """ModelScope's transformer after the first convolution; with head_dim it is heads * head_dim wide whatever its input is."""
    head_dim = config.head_dim or width // config.heads
    return TemporalTransformer(width, config.heads, head_dim, config.groups, config.ff_mult, rngs, policy)


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

    def __call__(self, x: jax.Array, seen: jax.Array | None = None) -> jax.Array:
        """x [B*N,F,D] -> [B*N,F,D]; seen: [B*N,F,R], as `attend` takes it."""
        positions = frame_positions(x.shape[1], x.shape[2])
        for i in range(self.attentions):
            normed = getattr(self, f"norm_{i}")(x)
            x = x + getattr(self, f"attn_{i}")(normed + positions.astype(normed.dtype), seen=seen)
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

    def __call__(self, x: jax.Array, batch: int, seen: jax.Array | None = None) -> jax.Array:
        """x [B*F,h,w,C] with B = `batch` -> the same shape; seen: [B*h*w,F,R] of each frame of a position, as `attend` takes it.

        Raises:
          UserError: more frames than the positions reach.
        """
        frames = x.shape[0] // batch
        if frames > self.max_frames:
            raise UserError(
                f"temporal attention: a window of {frames} frames, but this model reaches {self.max_frames}; "
                "use shorter windows, or a model with a larger temporal.max_frames."
            )
        normed = self.norm(unfold_frames(x, batch) if self.clip_norm else x).reshape(x.shape)
        hidden = over_frames(unfold_frames(self.proj_in(normed), batch))
        for i in range(self.blocks):
            hidden = getattr(self, f"block_{i}")(hidden, seen)
        return to_frames(self.proj_out(hidden), x.shape, batch) + x
