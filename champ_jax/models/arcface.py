"""ArcFace's network (insightface's IResNet): an aligned face to a vector that tells who it is."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from champ_jax.dims import check_shape
from champ_jax.errors import UserError
from champ_jax.nn.convnet import BatchNorm, conv_nd
from champ_jax.nn.layers import linear
from champ_jax.nn.policy import Policy


@dataclasses.dataclass(frozen=True)
class ArcFaceConfig:
    """Geometry; the defaults are IResNet-100 (glintr100). IResNet-50 (w600k_r50) has the layers (3, 4, 14, 3).

    Attributes:
      layers: blocks of each of the four stages; every stage halves the size first.
      widths: channels of the first convolution and of each stage.
      embedding: width of the result.
      image_size: S, pixels along the side of the face.
      folded: whether every norm that follows a convolution is folded into it, as the ONNX files have it: then those
        norms are not there and the convolutions have biases.
    """

    layers: tuple[int, ...] = (3, 13, 30, 3)
    widths: tuple[int, ...] = (64, 64, 128, 256, 512)
    embedding: int = 512
    image_size: int = 112
    folded: bool = False

    def __post_init__(self):
        if len(self.layers) != 4 or len(self.widths) != 5 or min(*self.layers, *self.widths) < 1:
            raise UserError(f"arcface: layers {self.layers} and widths {self.widths} must be 4 and 5 positive numbers.")
        if self.image_size < 16 or self.image_size % 16:
            raise UserError(f"arcface: an image of {self.image_size} pixels must divide by 16, as each of four stages halves it.")


class PReLU(nnx.Module):
    """x where it is positive and slope * x elsewhere, with one slope a channel."""

    def __init__(self, width: int, policy: Policy):
        self.slope = nnx.Param(jnp.full((width,), 0.25, policy.param))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [...,C] -> [...,C]."""
        return jnp.where(x > 0, x, self.slope[...].astype(x.dtype) * x)


class Block(nnx.Module):
    """norm, conv, norm, PReLU, conv, norm, + input; the second convolution has the stride.

    The input goes through a 1x1 convolution and a norm where a stage begins.
    """

    def __init__(self, width_in: int, width: int, stride: int, folded: bool, rngs: nnx.Rngs, policy: Policy):
        self.norm1 = BatchNorm(width_in, rngs, policy)
        self.conv1 = conv_nd(width_in, width, (3, 3), rngs, policy, bias=folded)
        self.norm2 = None if folded else BatchNorm(width, rngs, policy)
        self.prelu = PReLU(width, policy)
        self.conv2 = conv_nd(width, width, (3, 3), rngs, policy, stride, bias=folded)
        self.norm3 = None if folded else BatchNorm(width, rngs, policy)
        self.shortcut = conv_nd(width_in, width, (1, 1), rngs, policy, stride, bias=folded) if stride > 1 else None
        self.shortcut_norm = BatchNorm(width, rngs, policy) if stride > 1 and not folded else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,C] -> [B,h/stride,w/stride,C']."""
        hidden = self.prelu(_apply(self.norm2, self.conv1(self.norm1(x))))
        hidden = _apply(self.norm3, self.conv2(hidden))
        return hidden + (x if self.shortcut is None else _apply(self.shortcut_norm, self.shortcut(x)))


class ArcFace(nnx.Module):
    """Face to embedding; submodules conv_in, norm_in, prelu_in, stage_1/block_0.., norm_out, fc, features."""

    def __init__(self, config: ArcFaceConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its geometry; rngs the source of initial parameters; policy its precision."""
        self.config = config
        self.compute = policy.compute
        widths, folded = config.widths, config.folded
        self.conv_in = conv_nd(3, widths[0], (3, 3), rngs, policy, bias=folded)
        self.norm_in = None if folded else BatchNorm(widths[0], rngs, policy)
        self.prelu_in = PReLU(widths[0], policy)
        for i, layers in enumerate(config.layers):
            setattr(self, f"stage_{i + 1}", Stage(widths[i], widths[i + 1], layers, folded, rngs, policy))
        self.norm_out = BatchNorm(widths[-1], rngs, policy)
        self.fc = linear(widths[-1] * (config.image_size // 16) ** 2, config.embedding, rngs, policy)
        self.features = BatchNorm(config.embedding, rngs, policy)

    def __call__(self, faces: jax.Array) -> jax.Array:
        """Embeds aligned RGB faces [B,S,S,3] in [-1,1] -> [B,E], not of unit length.

        Raises:
          UserError: the image is of another size.
        """
        check_shape("ArcFace pixels", faces, f"B {self.config.image_size} {self.config.image_size} 3")
        x = self.prelu_in(_apply(self.norm_in, self.conv_in(faces.astype(self.compute))))
        for i in range(len(self.config.layers)):
            x = getattr(self, f"stage_{i + 1}")(x)
        # Flattened with channels first, as the weights of fc are laid out.
        x = rearrange(self.norm_out(x), "b h w c -> b (c h w)")
        return self.features(self.fc(x))


class Stage(nnx.Module):
    """Blocks of one resolution, of which the first halves it."""

    def __init__(self, width_in: int, width: int, layers: int, folded: bool, rngs: nnx.Rngs, policy: Policy):
        self.layers = layers
        for i in range(layers):
            setattr(self, f"block_{i}", Block(width if i else width_in, width, 1 if i else 2, folded, rngs, policy))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,C] -> [B,h/2,w/2,C']."""
        for i in range(self.layers):
            x = getattr(self, f"block_{i}")(x)
        return x


def arcface_pixels(faces: jax.Array) -> jax.Array:
    """Aligned RGB faces [B,S,S,3] of 0..255 -> float32 [B,S,S,3] in [-1,1], what `ArcFace` takes."""
    return (jnp.asarray(faces, jnp.float32) - 127.5) / 127.5


def _apply(norm, x):
    """x after the norm, where there is one."""
    return x if norm is None else norm(x)
