"""dlib's face recognition network: an aligned face to a vector of 128 that tells who it is."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from champ_jax.dims import check_shape
from champ_jax.errors import UserError
from champ_jax.nn.convnet import conv_nd
from champ_jax.nn.layers import linear
from champ_jax.nn.policy import Policy

MEAN = (122.782, 117.001, 104.298)
"""Of the red, green and blue that the network was trained on; pixels are divided by 256 afterwards."""


@dataclasses.dataclass(frozen=True)
class DlibFaceConfig:
    """Geometry; the defaults are dlib_face_recognition_resnet_model_v1, of 29 convolutions.

    Attributes:
      widths: channels of each stage. The first keeps the size and the others halve it; another halving follows the last.
      layers: blocks of each stage that keep the size.
      embedding: width of the result.
      image_size: S, pixels along the side of the face.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    layers: tuple[int, ...] = (3, 3, 2, 2)
    embedding: int = 128
    image_size: int = 150

    def __post_init__(self):
        if not self.widths or len(self.widths) != len(self.layers) or min(*self.widths, *self.layers) < 1:
            raise UserError(f"dlib_face: widths {self.widths} and layers {self.layers} must be as many positive numbers.")


class Affine(nnx.Module):
    """x * scale + bias for each channel: a norm of training, frozen."""

    def __init__(self, width: int, policy: Policy):
        self.compute = policy.compute
        self.scale = nnx.Param(jnp.ones((width,), policy.param))
        self.bias = nnx.Param(jnp.zeros((width,), policy.param))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [...,C] -> [...,C]."""
        return x * self.scale[...].astype(self.compute) + self.bias[...].astype(self.compute)


class Block(nnx.Module):
    """conv, affine, ReLU, conv, affine, + input, ReLU; a halving one strides first and pools its input.

    Where sizes or widths of the two differ, the smaller is filled up with zeros at the end, as dlib adds tensors.
    """

    def __init__(self, width_in: int, width: int, halve: bool, rngs: nnx.Rngs, policy: Policy):
        self.halve = halve
        self.conv1 = conv_nd(width_in, width, (3, 3), rngs, policy, 2 if halve else 1, (0, 0) if halve else None, bias=True)
        self.affine1 = Affine(width, policy)
        self.conv2 = conv_nd(width, width, (3, 3), rngs, policy, bias=True)
        self.affine2 = Affine(width, policy)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,C] -> [B,h',w',C'], where a halving block has h' = h // 2."""
        hidden = jax.nn.relu(self.affine1(self.conv1(x)))
        hidden = self.affine2(self.conv2(hidden))
        if self.halve:
            x = nnx.avg_pool(x, (2, 2), (2, 2))
        shape = tuple(map(max, x.shape, hidden.shape))
        return jax.nn.relu(_grown(hidden, shape) + _grown(x, shape))


class DlibFace(nnx.Module):
    """Face to embedding; submodules conv_in, affine_in, stage_0/block_1.., stage_1/down, stage_1/block_1.., down_out, fc."""

    def __init__(self, config: DlibFaceConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its geometry; rngs the source of initial parameters; policy its precision."""
        self.config = config
        self.compute = policy.compute
        widths = config.widths
        self.conv_in = conv_nd(3, widths[0], (7, 7), rngs, policy, 2, (0, 0), bias=True)
        self.affine_in = Affine(widths[0], policy)
        for i, (width, layers) in enumerate(zip(widths, config.layers)):
            setattr(self, f"stage_{i}", Stage(widths[max(i - 1, 0)], width, layers, i > 0, rngs, policy))
        self.down_out = Block(widths[-1], widths[-1], True, rngs, policy)
        self.fc = linear(widths[-1], config.embedding, rngs, policy, bias=False)

    def __call__(self, faces: jax.Array) -> jax.Array:
        """Embeds face chips [B,S,S,3] from `dlib_pixels` -> [B,E]; two of one person are mostly less than 0.6 apart.

        Raises:
          UserError: the image is of another size.
        """
        check_shape("face pixels", faces, f"B {self.config.image_size} {self.config.image_size} 3")
        x = jax.nn.relu(self.affine_in(self.conv_in(faces.astype(self.compute))))
        x = nnx.max_pool(x, (3, 3), (2, 2))
        for i in range(len(self.config.widths)):
            x = getattr(self, f"stage_{i}")(x)
        return self.fc(self.down_out(x).mean(axis=(1, 2)))


class Stage(nnx.Module):
    """Blocks of one width, numbered from 1; where the stage halves the size, the block `down` goes first."""

    def __init__(self, width_in: int, width: int, layers: int, halve: bool, rngs: nnx.Rngs, policy: Policy):
        self.layers = layers
        self.down = Block(width_in, width, True, rngs, policy) if halve else None
        for i in range(layers):
            setattr(self, f"block_{i + 1}", Block(width, width, False, rngs, policy))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,C] -> [B,h',w',C']."""
        if self.down is not None:
            x = self.down(x)
        for i in range(self.layers):
            x = getattr(self, f"block_{i + 1}")(x)
        return x


def dlib_pixels(faces: jax.Array) -> jax.Array:
    """RGB face chips [B,S,S,3] of 0..255 -> float32 [B,S,S,3], what `DlibFace` takes."""
    return (jnp.asarray(faces, jnp.float32) - np.float32(MEAN)) / 256.0


def _grown(x, shape):
    """x with zeros after its end along each axis, of this shape."""
    return jnp.pad(x, [(0, size - own) for own, size in zip(x.shape, shape)])
