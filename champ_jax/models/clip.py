"""The CLIP vision tower with its projection (transformers' CLIPVisionModelWithProjection), and its preprocessing."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from PIL import Image

from champ_jax.dims import check_shape
from champ_jax.errors import UserError
from champ_jax.nn.attention import join_heads, split_heads
from champ_jax.nn.kernels import attend
from champ_jax.nn.layers import layer_norm, linear
from champ_jax.nn.policy import Policy

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
ACTIVATIONS = {"quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x), "gelu": lambda x: jax.nn.gelu(x, approximate=False)}


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Geometry of the tower; the defaults are ViT-L/14, which CHAMP uses.

    Attributes:
      hidden: width of the tokens.
      intermediate: width inside the feed-forwards.
      layers, heads: of the transformer.
      patch: pixels along the side of one token's square.
      image_size: pixels along the side of the image.
      projection: width of the embedding.
      activation: "quick_gelu" as OpenAI trained, or "gelu".
    """

    hidden: int = 1024
    intermediate: int = 4096
    layers: int = 24
    heads: int = 16
    patch: int = 14
    image_size: int = 224
    projection: int = 768
    activation: str = "quick_gelu"

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise UserError(f"clip: activation {self.activation!r}, expected one of {', '.join(ACTIVATIONS)}.")
        if self.hidden % self.heads:
            raise UserError(f"clip: width {self.hidden} must divide into {self.heads} heads.")

    @property
    def tokens(self) -> int:
        """Number of tokens: the class token and one for each square of the image."""
        return 1 + (self.image_size // self.patch) ** 2


class Layer(nnx.Module):
    """Pre-norm transformer layer; all linear layers have biases."""

    def __init__(self, config: CLIPConfig, rngs: nnx.Rngs, policy: Policy):
        width = config.hidden
        self.heads, self.activation = config.heads, config.activation
        self.norm1 = layer_norm(width, rngs, policy)
        self.to_q = linear(width, width, rngs, policy)
        self.to_k = linear(width, width, rngs, policy)
        self.to_v = linear(width, width, rngs, policy)
        self.to_out = linear(width, width, rngs, policy)
        self.norm2 = layer_norm(width, rngs, policy)
        self.ff_in = linear(width, config.intermediate, rngs, policy)
        self.ff_out = linear(config.intermediate, width, rngs, policy)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,N,D] -> [B,N,D]."""
        normed = self.norm1(x)
        queries, keys, values = (split_heads(part(normed), self.heads) for part in (self.to_q, self.to_k, self.to_v))
        x = x + self.to_out(join_heads(attend(queries, keys, values)))
        return x + self.ff_out(ACTIVATIONS[self.activation](self.ff_in(self.norm2(x))))


class CLIP(nnx.Module):
    """Image to embedding; submodules patch, class_token, positions, norm_in, layer_0.., norm_out, projection."""

    def __init__(self, config: CLIPConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its geometry; rngs the source of initial parameters; policy its precision."""
        self.config = config
        self.compute = policy.compute
        width = config.hidden
        # Squares do not overlap, so their convolution is a linear layer on folded pixels; kept as HWIO for the files.
        self.patch = nnx.Conv(
            3, width, (config.patch,) * 2, config.patch, padding="VALID", use_bias=False,
            dtype=policy.compute, param_dtype=policy.param, rngs=rngs,
        )  # fmt: skip
        scale = 0.02
        self.class_token = nnx.Param(scale * jax.random.normal(rngs.params(), (width,), policy.param))
        self.positions = nnx.Param(scale * jax.random.normal(rngs.params(), (config.tokens, width), policy.param))
        self.norm_in = layer_norm(width, rngs, policy)
        for i in range(config.layers):
            setattr(self, f"layer_{i}", Layer(config, rngs, policy))
        self.norm_out = layer_norm(width, rngs, policy)
        self.projection = linear(width, config.projection, rngs, policy, bias=False)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Embeds normalised pixels [B,S,S,3], S the image size -> [B,projection], not of unit length.

        Raises:
          UserError: the image is of another size.
        """
        return self.projection(self.norm_out(self.tokens(pixels)[:, 0]))

    def tokens(self, pixels: jax.Array) -> jax.Array:
        """All tokens after the last layer, before the final norm, the class token first: [B,N,D]."""
        check_shape("CLIP pixels", pixels, f"B {self.config.image_size} {self.config.image_size} 3")
        x = rearrange(self.patch(pixels.astype(self.compute)), "b h w c -> b (h w) c")
        first = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([first, x], axis=1) + self.positions[...].astype(x.dtype)
        x = self.norm_in(x)
        for i in range(self.config.layers):
            x = getattr(self, f"layer_{i}")(x)
        return x


def clip_pixels(images: np.ndarray, mode: str = "inference", size: int = 224) -> np.ndarray:
    """Prepares images for CLIP on the host, with PIL's antialiased bicubic, as CHAMP's two code paths do.

    Args:
      images: uint8 [B,H,W,3].
      mode: "inference" squeezes the whole image into a square, whatever its shape; "train" scales the shorter side to
        `size` and crops the centre.
      size: S, pixels along the side of the result.

    Returns:
      float32 [B,S,S,3], normalised by CLIP's mean and deviation.

    Raises:
      UserError: an unknown mode.
    """
    if mode not in ("inference", "train"):
        raise UserError(f"CLIP preprocessing {mode!r}: expected inference or train.")
    height, width = images.shape[1:3]
    target = (size, size)
    if mode == "train":
        short = min(height, width)
        target = (int(height * size / short), int(width * size / short))
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    resized = [np.asarray(Image.fromarray(x).resize(target[::-1], Image.Resampling.BICUBIC)) for x in images]
    cropped = np.stack(resized)[:, top : top + size, left : left + size]
    return ((cropped.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)


def clip_resize(images: jax.Array, size: int = 224) -> jax.Array:
    """`clip_pixels` in its inference mode on the device: images [B,H,W,3] of 0..255 -> float32 [B,S,S,3].

    Like PIL it scales one axis after the other and rounds to whole levels after each: rows first, as Pillow did until
    12 and CHAMP with it (Pillow 13 takes tall images the other way round).
    """
    x = images.astype(jnp.float32)
    batch, height = x.shape[:2]
    for shape in ((batch, height, size, 3), (batch, size, size, 3)):
        if x.shape != shape:
            x = jnp.clip(jnp.floor(jax.image.resize(x, shape, "cubic", antialias=True) + 0.5), 0.0, 255.0)
    return (x / 255.0 - jnp.asarray(MEAN)) / jnp.asarray(STD)
