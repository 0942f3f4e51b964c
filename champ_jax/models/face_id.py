"""Tokens of a face, which every spatial cross-attention reads through projections of its own (nn.identity).

StableAnimator's FusionFaceId makes them from the face's embedding and the image's; without its layers what is left is the
projection of IP-Adapter-FaceID, which knows the face alone.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.dims import check_shape
from champ_jax.errors import UserError
from champ_jax.nn.attention import join_heads, split_heads
from champ_jax.nn.kernels import attend
from champ_jax.nn.layers import layer_norm, linear
from champ_jax.nn.policy import Policy


@dataclasses.dataclass(frozen=True)
class FaceIDConfig:
    """Geometry of the network to face tokens; the defaults are StableAnimator's, for Stable Video Diffusion.

    Attributes:
      width: D of the tokens, the width of the denoiser's context.
      embedding: E, width of the face's embedding; ArcFace's by default.
      clip_width: Dc, width of the image's embedding.
      tokens: N, how many tokens a face becomes.
      layers: of the transformer that reads the image's embedding; with 0 the tokens are those of the face alone.
      heads: of its attentions, which are 64 wide each in StableAnimator.
      head_dim: width of a head.
      ff_mult: width of its feed-forwards, in widths.
    """

    width: int = 1024
    embedding: int = 512
    clip_width: int = 1024
    tokens: int = 4
    layers: int = 4
    heads: int = 16
    head_dim: int = 64
    ff_mult: int = 4

    def __post_init__(self):
        if any(value < (name != "layers") for name, value in dataclasses.asdict(self).items()):
            raise UserError(f"face_id: all sizes must be positive; got {self}.")


class PerceiverLayer(nnx.Module):
    """Attention from the latents to the image and themselves, and a GELU feed-forward; both with what they change added."""

    def __init__(self, config: FaceIDConfig, rngs: nnx.Rngs, policy: Policy):
        width, inner = config.width, config.heads * config.head_dim
        self.heads = config.heads
        self.norm_image = layer_norm(width, rngs, policy)
        self.norm_latents = layer_norm(width, rngs, policy)
        self.to_q = linear(width, inner, rngs, policy, bias=False)
        self.to_kv = linear(width, 2 * inner, rngs, policy, bias=False)
        self.to_out = linear(inner, width, rngs, policy, bias=False)
        self.norm_ff = layer_norm(width, rngs, policy)
        self.ff_in = linear(width, config.ff_mult * width, rngs, policy, bias=False)
        self.ff_out = linear(config.ff_mult * width, width, rngs, policy, bias=False)

    def __call__(self, latents: jax.Array, image: jax.Array) -> jax.Array:
        """latents [B,N,D], image [B,L,D] -> [B,N,D]."""
        normed = self.norm_latents(latents)
        keys, values = jnp.split(self.to_kv(jnp.concatenate([self.norm_image(image), normed], axis=1)), 2, axis=-1)
        queries, keys, values = (split_heads(x, self.heads) for x in (self.to_q(normed), keys, values))
        latents = latents + self.to_out(join_heads(attend(queries, keys, values)))
        return latents + self.ff_out(jax.nn.gelu(self.ff_in(self.norm_ff(latents)), approximate=False))


class FaceID(nnx.Module):
    """StableAnimator's FusionFaceId; submodules proj_in, proj_out, norm, image_in, layer_0.., latents_out, norm_out."""

    def __init__(self, config: FaceIDConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its geometry; rngs the source of initial parameters; policy its precision."""
        self.config = config
        self.compute = policy.compute
        width = config.width
        self.proj_in = linear(config.embedding, 2 * config.embedding, rngs, policy)
        self.proj_out = linear(2 * config.embedding, config.tokens * width, rngs, policy)
        self.norm = layer_norm(width, rngs, policy)
        if not config.layers:
            return
        self.image_in = linear(config.clip_width, width, rngs, policy)
        for i in range(config.layers):
            setattr(self, f"layer_{i}", PerceiverLayer(config, rngs, policy))
        self.latents_out = linear(width, width, rngs, policy, zero=True)
        self.norm_out = layer_norm(width, rngs, policy)

    def __call__(self, face: jax.Array, image: jax.Array, shortcut: float | None = None) -> jax.Array:
        """Tokens of a face.

        Args:
          face: its embedding [B,E], as ArcFace gives it, not of unit length; zeros where there is no face.
          image: the image's embedding [B,L,Dc], in StableAnimator one token of CLIP.
          shortcut: with a number, the result is that many times what it would be, added to the tokens before they read the
            image; StableAnimator has it off.

        Returns:
          [B,N,D].
        """
        config = self.config
        check_shape("face embedding", face, f"B {config.embedding}")
        check_shape("image embedding", image, f"{face.shape[0]} L {config.clip_width}")
        tokens = self.proj_out(jax.nn.gelu(self.proj_in(face.astype(self.compute)), approximate=False))
        tokens = self.norm(tokens.reshape(-1, config.tokens, config.width))
        if not config.layers:
            return tokens
        latents, image = tokens, self.image_in(image.astype(self.compute))
        for i in range(config.layers):
            latents = getattr(self, f"layer_{i}")(latents, image)
        latents = self.norm_out(self.latents_out(latents))
        return latents if shortcut is None else tokens + shortcut * latents


@dataclasses.dataclass(frozen=True)
class IDAdapterConfig:
    """blocks: (place in the UNet, such as "down_0/attention_1", and its width C) of each spatial transformer. context: D, the
    width of the face tokens."""

    blocks: tuple[tuple[str, int], ...]
    context: int


class IDAdapter(nnx.Module):
    """The adapter's projections, PLACE/attn2/id_to_k and id_to_v: beside the to_k and to_v of the UNet's parameters."""

    def __init__(self, config: IDAdapterConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its geometry; rngs the source of initial parameters; policy its precision."""
        for place, width in config.blocks:
            node: nnx.Module = self
            for part in (*place.split("/"), "attn2"):
                if not hasattr(node, part):
                    setattr(node, part, _Place())
                node = getattr(node, part)
            node.id_to_k = linear(config.context, width, rngs, policy, bias=False)
            node.id_to_v = linear(config.context, width, rngs, policy, bias=False)


class _Place(nnx.Module):
    """A level of the UNet, or an attention of it, that holds parts of the adapter."""
