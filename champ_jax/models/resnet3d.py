"""The 3D ResNet of Kinetics whose features FID-VID compares (Hara et al., "Can Spatiotemporal 3D CNNs Retrace ...")."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.dims import check_shape
from champ_jax.nn.convnet import ConvUnit, max_pool
from champ_jax.nn.layers import linear
from champ_jax.nn.policy import Policy

MEAN = (114.7748, 107.7354, 99.4750)
"""Of Kinetics' pixels in 0..255."""
EXPANSION = 4
POINT, CUBE = (1, 1, 1), (3, 3, 3)


@dataclasses.dataclass(frozen=True)
class ResNet3DConfig:
    """Geometry; the defaults are ResNet-50's.

    Attributes:
      layers: bottleneck blocks of each stage; every stage but the first halves frames, height and width.
      width: channels of the first convolution; features have 32 times as many.
      classes: of Kinetics.
    """

    layers: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    classes: int = 400


class Bottleneck(nnx.Module):
    """unit_1 narrows, unit_2 looks around (and halves the size), unit_3 widens, + input or its shortcut, ReLU."""

    def __init__(self, width_in: int, width: int, stride: int, rngs: nnx.Rngs, policy: Policy):
        width_out = EXPANSION * width
        self.unit_1 = ConvUnit(width_in, width, POINT, rngs, policy)
        self.unit_2 = ConvUnit(width, width, CUBE, rngs, policy, stride)
        self.unit_3 = ConvUnit(width, width_out, POINT, rngs, policy, relu=False)
        changes = stride != 1 or width_in != width_out
        self.shortcut = ConvUnit(width_in, width_out, POINT, rngs, policy, stride, relu=False) if changes else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,F,h,w,C] -> [B,F',h',w',C']."""
        hidden = self.unit_3(self.unit_2(self.unit_1(x)))
        return jax.nn.relu(hidden + (x if self.shortcut is None else self.shortcut(x)))


class Stage(nnx.Module):
    """Bottlenecks of one resolution, block_0.."""

    def __init__(self, width_in: int, width: int, blocks: int, stride: int, rngs: nnx.Rngs, policy: Policy):
        self.blocks = blocks
        for i in range(blocks):
            block = Bottleneck(EXPANSION * width if i else width_in, width, 1 if i else stride, rngs, policy)
            setattr(self, f"block_{i}", block)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,F,h,w,C] -> [B,F',h',w',C']."""
        for i in range(self.blocks):
            x = getattr(self, f"block_{i}")(x)
        return x


class ResNet3D(nnx.Module):
    """Video to features; submodules unit_1, layer_1.. and fc."""

    def __init__(self, config: ResNet3DConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its geometry; rngs the source of initial parameters; policy its precision."""
        self.config = config
        width_in = config.width
        self.unit_1 = ConvUnit(3, width_in, (7, 7, 7), rngs, policy, (1, 2, 2))
        for i, blocks in enumerate(config.layers):
            width = config.width * 2**i
            setattr(self, f"layer_{i + 1}", Stage(width_in, width, blocks, 2 if i else 1, rngs, policy))
            width_in = EXPANSION * width
        self.fc = linear(width_in, config.classes, rngs, policy)

    def __call__(self, video: jax.Array) -> jax.Array:
        """Features of video [B,F,H,W,3], see `resnet3d_pixels`, usually 16 frames of 112x112 -> [B,32*width]."""
        check_shape("3D ResNet video", video, "B F H W 3")
        x = max_pool(self.unit_1(video), CUBE, (2, 2, 2), (1, 1, 1))
        for i in range(len(self.config.layers)):
            x = getattr(self, f"layer_{i + 1}")(x)
        return x.mean((1, 2, 3))

    def logits(self, features: jax.Array) -> jax.Array:
        """Class logits of features [B,32*width] -> [B,classes]."""
        return self.fc(features)


def resnet3d_pixels(frames: jax.Array) -> jax.Array:
    """Frames [B,F,H,W,3] of 0..255 less their mean: float32 of the same shape. The deviation is left as it is."""
    return jnp.asarray(frames, jnp.float32) - jnp.asarray(MEAN, jnp.float32)
