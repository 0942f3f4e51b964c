"""LPIPS, the learned perceptual distance of two images, and the ImageNet networks it looks through (VGG-16, AlexNet).

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", version 0.1 of its weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.dims import check_shape
from champ_jax.errors import UserError
from champ_jax.nn.convnet import conv_nd, max_pool
from champ_jax.nn.layers import linear
from champ_jax.nn.policy import Policy

# ImageNet's mean and deviation, in LPIPS's own rounding and for pixels in [-1,1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10


class Layer(NamedTuple):
    """A convolution with a ReLU behind it: its number in torchvision's list, and the side of the max pool before it."""

    index: int
    width: int
    pool: int = 0
    window: int = 3
    stride: int = 1
    padding: int = 1


class Net(NamedTuple):
    """layers: in order. taps: numbers of the layers that LPIPS compares. smallest: side of the smallest image."""

    layers: tuple[Layer, ...]
    taps: tuple[int, ...]
    smallest: int


NETS = {
    "alex": Net(
        (
            Layer(0, 64, window=11, stride=4, padding=2),
            Layer(3, 192, pool=3, window=5, padding=2),
            Layer(6, 384, pool=3),
            Layer(8, 256),
            Layer(10, 256),
        ),
        taps=(0, 3, 6, 8, 10),
        smallest=31,
    ),
    "vgg": Net(
        (
            Layer(0, 64), Layer(2, 64),
            Layer(5, 128, pool=2), Layer(7, 128),
            Layer(10, 256, pool=2), Layer(12, 256), Layer(14, 256),
            Layer(17, 512, pool=2), Layer(19, 512), Layer(21, 512),
            Layer(24, 512, pool=2), Layer(26, 512), Layer(28, 512),
        ),
        taps=(2, 7, 14, 21, 28),
        smallest=16,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LPIPSConfig:
    """Which network looks: "alex" for evaluation, "vgg" for losses and the tables of AnimateAnyone and its like."""

    net: str = "alex"

    def __post_init__(self):
        if self.net not in NETS:
            raise UserError(f"lpips: net {self.net!r}, expected one of {', '.join(NETS)}.")


class Backbone(nnx.Module):
    """The convolutions of VGG-16 or AlexNet; submodules conv_0.., numbered as torchvision numbers its `features`."""

    def __init__(self, config: LPIPSConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config which network; rngs the source of initial parameters; policy its precision."""
        self.config = config
        width = 3
        for layer in NETS[config.net].layers:
            window, padding = (layer.window,) * 2, (layer.padding,) * 2
            conv = conv_nd(width, layer.width, window, rngs, policy, layer.stride, padding, bias=True)
            setattr(self, f"conv_{layer.index}", conv)
            width = layer.width

    def __call__(self, pixels: jax.Array, taps: Sequence[int] | None = None) -> list[jax.Array]:
        """Features after the ReLU of some layers, those that LPIPS compares by default.

        Args:
          pixels: [B,H,W,3], of ImageNet's mean and deviation.
          taps: numbers of the layers, ascending; VGG's relu1_1, relu2_1, .. are 0, 5, 10, 17 and 24.

        Returns:
          One [B,h,w,C] for each tap.

        Raises:
          UserError: the image is too small for any features, or there is no such layer.
        """
        net = NETS[self.config.net]
        taps = net.taps if taps is None else tuple(taps)
        unknown = set(taps) - {layer.index for layer in net.layers}
        if unknown or not taps:
            raise UserError(f"{self.config.net} has no layers {sorted(unknown)}; it has {', '.join(str(x.index) for x in net.layers)}.")
        sizes = check_shape(f"{self.config.net} pixels", pixels, "B H W 3")
        if min(sizes["H"], sizes["W"]) < net.smallest:
            raise UserError(f"{self.config.net} needs images of {net.smallest} pixels and more, got {sizes['H']}x{sizes['W']}.")
        features, x = {}, pixels
        for layer in net.layers:
            if layer.index > max(taps):
                break
            if layer.pool:
                x = max_pool(x, (layer.pool,) * 2, (2, 2))
            x = features[layer.index] = jax.nn.relu(getattr(self, f"conv_{layer.index}")(x))
        return [features[tap] for tap in taps]


class Heads(nnx.Module):
    """The learned weight of every channel that LPIPS compares; submodules head_0.., one for each tap."""

    def __init__(self, config: LPIPSConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config which network they weigh; rngs the source of initial parameters; policy its precision."""
        net = NETS[config.net]
        widths = {layer.index: layer.width for layer in net.layers}
        for i, tap in enumerate(net.taps):
            setattr(self, f"head_{i}", linear(widths[tap], 1, rngs, policy, bias=False))

    def __call__(self, differences: Sequence[jax.Array]) -> jax.Array:
        """Weighted means over positions of differences, one [B,h,w,C] for each tap -> [B,taps]."""
        # In each channel the mean comes first: the heads are linear, and this saves a map.
        means = [difference.mean((1, 2)) for difference in differences]
        return jnp.concatenate([getattr(self, f"head_{i}")(mean) for i, mean in enumerate(means)], axis=-1)


class LPIPS(nnx.Module):
    """Distance of images; submodules backbone and heads."""

    def __init__(self, config: LPIPSConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config which network; rngs the source of initial parameters; policy its precision."""
        self.backbone = Backbone(config, rngs, policy)
        self.heads = Heads(config, rngs, policy)

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Distances of images x and y, both [B,H,W,3] in [-1,1] -> [B], 0 where they are equal."""
        return self.by_layer(x, y).sum(-1)

    def by_layer(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """What each tap adds to the distance of x and y, both [B,H,W,3] in [-1,1] -> [B,taps]."""
        check_shape("LPIPS's second image", y, "B H W 3", check_shape("LPIPS's first image", x, "B H W 3"))
        both = (jnp.concatenate([x, y]) - jnp.asarray(SHIFT, x.dtype)) / jnp.asarray(SCALE, x.dtype)
        halves = [jnp.split(unit_length(features), 2) for features in self.backbone(both)]
        return self.heads([jnp.square(first - second) for first, second in halves])


def unit_length(features: jax.Array) -> jax.Array:
    """Features [B,h,w,C] with the channels of each position scaled to length 1; zeros stay zeros, the same shape."""
    square = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    # The root of zero has no gradient, and 1/EPSILON is a monstrous one: a silent position is divided by one instead.
    silent = square == 0
    return features / jnp.where(silent, 1.0, jnp.sqrt(jnp.where(silent, 1.0, square)) + EPSILON)
