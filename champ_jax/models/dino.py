"""DINO's vision transformer, whose class token tells one subject from another (Caron et al. 2021, facebookresearch/dino)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from champ_jax.dims import check_shape
from champ_jax.errors import UserError
from champ_jax.nn.attention import join_heads, split_heads
from champ_jax.nn.convnet import conv_nd
from champ_jax.nn.kernels import attend
from champ_jax.nn.layers import linear
from champ_jax.nn.policy import Policy

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels in 0..1."""


@dataclasses.dataclass(frozen=True)
class DINOConfig:
    """Geometry; the defaults are ViT-B/16.

    Attributes:
      hidden: width of the tokens.
      intermediate: width inside the feed-forwards.
      layers: of the transformer.
      patch: pixels along the side of one token's square.
      image_size: pixels along the side of the image.
      epsilon: added to the variances of the norms.
      fused: whether one matrix gives queries, keys and values, as facebookresearch stores them, or three as in transformers.
    """

    hidden: int = 768
    intermediate: int = 3072
    layers: int = 12
    patch: int = 16
    image_size: int = 224
    epsilon: float = 1e-6
    fused: bool = True

    def __post_init__(self):
        if self.hidden % 64:
            raise UserError(f"dino: width {self.hidden} must be a multiple of 64, the width of a head.")

    @property
    def heads(self) -> int:
        """All released towers have heads of width 64."""
        return self.hidden // 64

    @property
    def tokens(self) -> int:
        """Number of tokens: the class token and one for each square of the image."""
        return 1 + (self.image_size // self.patch) ** 2


def _norm(config: DINOConfig, rngs: nnx.Rngs, policy: Policy):
    precision = {"dtype": policy.compute, "param_dtype": policy.param}
    return nnx.LayerNorm(config.hidden, epsilon=config.epsilon, use_fast_variance=False, rngs=rngs, **precision)


class Layer(nnx.Module):
    """Pre-norm transformer layer; all linear layers have biases."""

    def __init__(self, config: DINOConfig, rngs: nnx.Rngs, policy: Policy):
        width = config.hidden
        self.heads, self.fused = config.heads, config.fused
        self.norm1 = _norm(config, rngs, policy)
        for name in ("to_qkv",) if config.fused else ("to_q", "to_k", "to_v"):
            setattr(self, name, linear(width, 3 * width if config.fused else width, rngs, policy))
        self.to_out = linear(width, width, rngs, policy)
        self.norm2 = _norm(config, rngs, policy)
        self.ff_in = linear(width, config.intermediate, rngs, policy)
        self.ff_out = linear(config.intermediate, width, rngs, policy)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,N,D] -> [B,N,D]."""
        normed = self.norm1(x)
        parts = jnp.split(self.to_qkv(normed), 3, axis=-1) if self.fused else (self.to_q(normed), self.to_k(normed), self.to_v(normed))
        x = x + self.to_out(join_heads(attend(*(split_heads(part, self.heads) for part in parts))))
        return x + self.ff_out(jax.nn.gelu(self.ff_in(self.norm2(x)), approximate=False))


class DINO(nnx.Module):
    """Image to embedding; submodules patch, class_token, positions, layer_0.., norm_out."""

    def __init__(self, config: DINOConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its geometry; rngs the source of initial parameters; policy its precision."""
        self.config = config
        width = config.hidden
        self.patch = conv_nd(3, width, (config.patch,) * 2, rngs, policy, config.patch, (0, 0), bias=True)
        self.class_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, 1, width), policy.param))
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, config.tokens, width), policy.param))
        for i in range(config.layers):
            setattr(self, f"layer_{i}", Layer(config, rngs, policy))
        self.norm_out = _norm(config, rngs, policy)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """The class token after the last norm, of normalised pixels [B,S,S,3], S the image size -> [B,D].

        Raises:
          UserError: the image is of another size.
        """
        check_shape("DINO pixels", pixels, f"B {self.config.image_size} {self.config.image_size} 3")
        x = rearrange(self.patch(pixels), "b h w c -> b (h w) c")
        first = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([first, x], axis=1) + self.positions[...].astype(x.dtype)
        for i in range(self.config.layers):
            x = getattr(self, f"layer_{i}")(x)
        return self.norm_out(x)[:, 0]


def dino_pixels(images: jax.Array) -> jax.Array:
    """Images [B,S,S,3] of 0..255, resized already, less ImageNet's mean and by its deviation: float32 of the same shape."""
    return (jnp.asarray(images, jnp.float32) / 255.0 - jnp.asarray(MEAN)) / jnp.asarray(STD)
