"""I3D, the inflated Inception-v1 of Kinetics-400 whose logits FVD compares (Carreira and Zisserman, "Quo Vadis")."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.dims import check_shape
from champ_jax.errors import UserError
from champ_jax.nn.convnet import ConvUnit, conv_nd, max_pool, mean_pool
from champ_jax.nn.policy import Policy

EPSILON = 1e-3
POINT, CUBE = (1, 1, 1), (3, 3, 3)
FEATURES = 1024
WINDOW = (2, 7, 7)
"""What is averaged before the logits: all of 16 frames of 224x224."""

BLOCKS = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Widths of b0, b1a, b1b, b2a, b2b and b3b."""
POOLS = {"mixed_4b": (CUBE, (2, 2, 2)), "mixed_5b": ((2, 2, 2), (2, 2, 2))}
"""Window and stride of the max pools before blocks."""


@dataclasses.dataclass(frozen=True)
class I3DConfig:
    """classes: of Kinetics, 400 or 600. channels: 3 for pictures, 2 for optical flow."""

    classes: int = 400
    channels: int = 3


class Mixed(nnx.Module):
    """Four branches side by side: b0 alone; b1a, b1b; b2a, b2b; a max pool and b3b."""

    def __init__(self, width: int, widths: tuple[int, ...], rngs: nnx.Rngs, policy: Policy):
        first, middle_in, middle, last_in, last, pool = widths
        self.b0 = _unit(width, first, POINT, rngs, policy)
        self.b1a = _unit(width, middle_in, POINT, rngs, policy)
        self.b1b = _unit(middle_in, middle, CUBE, rngs, policy)
        self.b2a = _unit(width, last_in, POINT, rngs, policy)
        self.b2b = _unit(last_in, last, CUBE, rngs, policy)
        self.b3b = _unit(width, pool, POINT, rngs, policy)
        self.width = first + middle + last + pool

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,F,h,w,C] -> [B,F,h,w,C']."""
        pooled = max_pool(x, CUBE, POINT, "SAME")
        return jnp.concatenate([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], axis=-1)


def _unit(width_in, width_out, window, rngs, policy, stride=1):
    return ConvUnit(width_in, width_out, window, rngs, policy, stride, "SAME", EPSILON)


class I3D(nnx.Module):
    """Video to logits; submodules conv_1a, conv_2b, conv_2c, mixed_3b.. and logits. All padding is TensorFlow's."""

    def __init__(self, config: I3DConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its inputs and outputs; rngs the source of initial parameters; policy its precision."""
        self.config = config
        self.conv_1a = _unit(config.channels, 64, (7, 7, 7), rngs, policy, 2)
        self.conv_2b = _unit(64, 64, POINT, rngs, policy)
        self.conv_2c = _unit(64, 192, CUBE, rngs, policy)
        width = 192
        for name, widths in BLOCKS.items():
            mixed = Mixed(width, widths, rngs, policy)
            setattr(self, name, mixed)
            width = mixed.width
        self.logits = conv_nd(FEATURES, config.classes, POINT, rngs, policy, bias=True)

    def __call__(self, video: jax.Array) -> jax.Array:
        """Logits of video [B,F,H,W,C] in [-1,1], usually 16 frames of 224x224 -> [B,classes], averaged over time.

        Raises:
          UserError: the video is too small for the last pool.
        """
        features = self.features(video)
        frames, height, width = features.shape[1:4]
        if min(height, width) < WINDOW[1]:
            raise UserError(f"I3D needs videos of 193 pixels and more, 224 usually, got {video.shape[2]}x{video.shape[3]}.")
        pooled = mean_pool(features, (min(frames, WINDOW[0]), *WINDOW[1:]))
        return self.logits(pooled).mean((1, 2, 3))

    def features(self, video: jax.Array) -> jax.Array:
        """What comes out of the last block for video [B,F,H,W,C] in [-1,1] -> [B,F/8,H/32,W/32,1024], rounded up."""
        check_shape("I3D video", video, f"B F H W {self.config.channels}")
        x = max_pool(self.conv_1a(video), (1, 3, 3), (1, 2, 2), "SAME")
        x = max_pool(self.conv_2c(self.conv_2b(x)), (1, 3, 3), (1, 2, 2), "SAME")
        for name in BLOCKS:
            if name in POOLS:
                x = max_pool(x, *POOLS[name], "SAME")
            x = getattr(self, name)(x)
        return x


def i3d_pixels(frames: jax.Array) -> jax.Array:
    """Frames [B,F,H,W,3] of 0..255 -> float32 in [-1,1], the same shape."""
    return jnp.asarray(frames, jnp.float32) / 127.5 - 1.0
