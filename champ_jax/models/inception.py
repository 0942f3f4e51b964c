"""The Inception-v3 that FID is defined by: TensorFlow's of 2015, with its own pooling, resizing and 1008 classes.

It is not torchvision's Inception: mean pools leave their padding out, the last block takes maxima instead of means, and
its convolutions are normalised with another epsilon.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from champ_jax.dims import check_shape
from champ_jax.errors import UserError
from champ_jax.nn.convnet import ConvUnit, max_pool, mean_pool
from champ_jax.nn.layers import linear
from champ_jax.nn.policy import Policy

SIZE = 299
FEATURES = 2048
EPSILON = 1e-3
POINT, SQUARE = (1, 1), (3, 3)


class Branch(NamedTuple):
    """Convolutions in a row, each (width, window) or (width, window, stride), then `ends` side by side.

    A convolution that halves the size has no padding.
    """

    name: str
    steps: tuple[tuple, ...]
    ends: tuple[tuple, ...] = ()


class Block(NamedTuple):
    """Branches side by side and then a 3x3 pool, "mean" or "max" with a convolution to `pool_width` behind, or "halve"."""

    branches: tuple[Branch, ...]
    pool: str
    pool_width: int = 0


def _fine(pool_width: int) -> Block:
    five = Branch("branch5x5", ((48, POINT), (64, (5, 5))))
    double = Branch("branch3x3dbl", ((64, POINT), (96, SQUARE), (96, SQUARE)))
    return Block((Branch("branch1x1", ((64, POINT),)), five, double), "mean", pool_width)


def _middle(width: int) -> Block:
    """7x7 windows as rows and columns of seven, `width` channels inside."""
    row, column = (width, (1, 7)), (width, (7, 1))
    seven = Branch("branch7x7", ((width, POINT), row, (192, (7, 1))))
    double = Branch("branch7x7dbl", ((width, POINT), column, row, column, (192, (1, 7))))
    return Block((Branch("branch1x1", ((192, POINT),)), seven, double), "mean", 192)


def _coarse(pool: str) -> Block:
    ends = ((384, (1, 3)), (384, (3, 1)))
    square = Branch("branch3x3", ((384, POINT),), ends)
    double = Branch("branch3x3dbl", ((448, POINT), (384, SQUARE)), ends)
    return Block((Branch("branch1x1", ((320, POINT),)), square, double), pool, 192)


BLOCKS = {
    "mixed_5b": _fine(32),
    "mixed_5c": _fine(64),
    "mixed_5d": _fine(64),
    "mixed_6a": Block(
        (
            Branch("branch3x3", ((384, SQUARE, 2),)),
            Branch("branch3x3dbl", ((64, POINT), (96, SQUARE), (96, SQUARE, 2))),
        ),
        "halve",
    ),
    "mixed_6b": _middle(128),
    "mixed_6c": _middle(160),
    "mixed_6d": _middle(160),
    "mixed_6e": _middle(192),
    "mixed_7a": Block(
        (
            Branch("branch3x3", ((192, POINT), (320, SQUARE, 2))),
            Branch("branch7x7x3", ((192, POINT), (192, (1, 7)), (192, (7, 1)), (192, SQUARE, 2))),
        ),
        "halve",
    ),
    "mixed_7b": _coarse("mean"),
    "mixed_7c": _coarse("max"),
}


@dataclasses.dataclass(frozen=True)
class InceptionConfig:
    """classes: of the last layer, 1008 in TensorFlow's network, whose first and last few mean nothing."""

    classes: int = 1008


class Mixed(nnx.Module):
    """One block; submodules are named after the branch, numbered where it has several convolutions, and branch_pool."""

    def __init__(self, width: int, block: Block, rngs: nnx.Rngs, policy: Policy):
        self.pool = block.pool
        self.branches: tuple = ()
        self.width = 0

        def unit(name: str, width_in: int, width_out: int, window: tuple[int, int], stride: int = 1) -> str:
            padding = (0, 0) if stride == 2 else None
            setattr(self, name, ConvUnit(width_in, width_out, window, rngs, policy, stride, padding, EPSILON))
            return name

        for branch in block.branches:
            single = len(branch.steps) == 1 and not branch.ends
            inner, names = width, ()
            for i, step in enumerate(branch.steps):
                names += (unit(branch.name if single else f"{branch.name}_{i + 1}", inner, *step),)
                inner = step[0]
            number = len(branch.steps) + 1
            ends = tuple(unit(f"{branch.name}_{number}{letter}", inner, *end) for letter, end in zip("ab", branch.ends))
            self.branches += ((names, ends),)
            self.width += sum(end[0] for end in branch.ends) or inner
        if block.pool_width:
            unit("branch_pool", width, block.pool_width, POINT)
        self.width += block.pool_width or width

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,C] -> [B,h',w',C'], half the size if the block halves."""
        found = []
        for names, ends in self.branches:
            inner = x
            for name in names:
                inner = getattr(self, name)(inner)
            found += [getattr(self, end)(inner) for end in ends] or [inner]
        return jnp.concatenate([*found, self._pooled(x)], axis=-1)

    def _pooled(self, x):
        if self.pool == "halve":
            return max_pool(x, SQUARE, (2, 2))
        pooled = mean_pool(x, SQUARE, (1, 1)) if self.pool == "mean" else max_pool(x, SQUARE, (1, 1), (1, 1))
        return self.branch_pool(pooled)


class Inception(nnx.Module):
    """Image to the features of FID; submodules conv_1a, conv_2a, conv_2b, conv_3b, conv_4a, mixed_5b.. and fc."""

    def __init__(self, config: InceptionConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its classes; rngs the source of initial parameters; policy its precision."""
        self.conv_1a = ConvUnit(3, 32, SQUARE, rngs, policy, 2, (0, 0), EPSILON)
        self.conv_2a = ConvUnit(32, 32, SQUARE, rngs, policy, 1, (0, 0), EPSILON)
        self.conv_2b = ConvUnit(32, 64, SQUARE, rngs, policy, 1, (1, 1), EPSILON)
        self.conv_3b = ConvUnit(64, 80, POINT, rngs, policy, 1, (0, 0), EPSILON)
        self.conv_4a = ConvUnit(80, 192, SQUARE, rngs, policy, 1, (0, 0), EPSILON)
        width = 192
        for name, block in BLOCKS.items():
            mixed = Mixed(width, block, rngs, policy)
            setattr(self, name, mixed)
            width = mixed.width
        self.fc = linear(FEATURES, config.classes, rngs, policy)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Features ("pool3") of pixels [B,299,299,3] in [-1,1], see `inception_pixels` -> [B,2048].

        Raises:
          UserError: the image is of another size.
        """
        check_shape("Inception pixels", pixels, f"B {SIZE} {SIZE} 3")
        x = self.conv_2b(self.conv_2a(self.conv_1a(pixels)))
        x = max_pool(x, SQUARE, (2, 2))
        x = max_pool(self.conv_4a(self.conv_3b(x)), SQUARE, (2, 2))
        for name in BLOCKS:
            x = getattr(self, name)(x)
        return x.mean((1, 2))

    def logits(self, features: jax.Array, bias: bool = True) -> jax.Array:
        """Class logits of features [B,2048] -> [B,classes]; the Inception Score takes them without their bias."""
        logits = self.fc(features)
        return logits if bias else logits - self.fc.bias[...].astype(logits.dtype)


def inception_pixels(images: jax.Array, resize: str = "tensorflow") -> jax.Array:
    """Resizes images as an implementation of FID does, which changes the result.

    Args:
      images: [B,H,W,3] of 0..255, whole numbers or not.
      resize: "tensorflow" takes the first pixel's corner for its centre, as TensorFlow 1 and torch-fidelity do; "pytorch_fid"
        aligns the outer edges, as pytorch-fid does. Neither smooths when it shrinks.

    Returns:
      float32 [B,299,299,3] in [-1,1].

    Raises:
      UserError: another way to resize.
    """
    check_shape("images", images, "B H W 3")
    images = jnp.asarray(images, jnp.float32)
    if resize == "tensorflow":
        return (_resize_axis(_resize_axis(images, 2), 1) - 128.0) / 128.0
    if resize == "pytorch_fid":
        shape = (images.shape[0], SIZE, SIZE, 3)
        return 2.0 * jax.image.resize(images / 255.0, shape, "linear", antialias=False) - 1.0
    raise UserError(f"FID's resize {resize!r}: expected tensorflow or pytorch_fid.")


def _resize_axis(x, axis):
    """Linear interpolation of one axis to 299, at multiples of length/299."""
    length = x.shape[axis]
    place = np.arange(SIZE, dtype=np.float32) * np.float32(length / SIZE)
    low = place.astype(np.int32)
    share = (place - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    lower, upper = (jnp.take(x, index, axis) for index in (low, np.minimum(low + 1, length - 1)))
    return lower + (upper - lower) * share
