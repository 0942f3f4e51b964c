"""Guidance encoders: one a kind of map (depth, normal, semantic map, pose), and how what they say comes together.

CHAMP's models/guidance_encoder.py, of which only the last attention ever runs; the others, which its checkpoints also
hold, do not exist here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from champ_jax.dims import GUIDANCE_KINDS, check_shape
from champ_jax.errors import UserError
from champ_jax.nn.attention import split_heads
from champ_jax.nn.blocks import SpatialTransformer
from champ_jax.nn.frames import fold_frames, unfold_frames
from champ_jax.nn.layers import conv, fold_patches, kernel_init, layer_norm, linear
from champ_jax.nn.policy import Policy


@dataclasses.dataclass(frozen=True)
class GuidanceConfig:
    """Geometry of each guidance encoder; the defaults are CHAMP's.

    Attributes:
      channels: width of each resolution, the finest first; every step but the last halves the size.
      patch: squares of patch x patch pixels are folded into channels first, and no convolution runs at full size.
      attention: whether the spatial attention before the last convolution is there.
      out_channels: width of the result; the denoiser's first level has it too.
      heads, groups: of the attention at the last resolution.
      ff_mult: width of its feed-forward, in widths.
      learned: False for maps as they are, shrunk to the grid, their colours repeated over the channels: a bare product of
        the map and its strength, which shows what an encoder is worth.
      fusion: how the kinds come together: None sums them, as CHAMP does; "gates" multiplies each channel of a kind by a
        number that is learnt and starts at 1; "attention" adds what they find in each other, see `Fusion`.
    """

    channels: tuple[int, ...] = (16, 32, 96, 256)
    patch: int = 1
    attention: bool = True
    out_channels: int = 320
    heads: int = 8
    groups: int = 32
    ff_mult: int = 4
    learned: bool = True
    fusion: str | None = None

    def __post_init__(self):
        if not self.channels:
            raise UserError("guidance.channels is empty: give the width of at least one resolution.")
        if not self.learned and self.fusion:
            raise UserError("guidance.fusion mixes what encoders say: leave it out with guidance.learned=False.")
        if self.fusion not in (None, "gates", "attention"):
            raise UserError(f"guidance.fusion is {self.fusion!r}: expected None, gates or attention.")
        if self.fusion == "attention" and self.out_channels % self.heads:
            raise UserError(f"guidance: out_channels {self.out_channels} must divide into {self.heads} heads.")
        if self.attention and (self.channels[-1] % self.heads or self.channels[-1] % self.groups):
            raise UserError(f"guidance: the last of channels {self.channels} must divide into {self.heads} heads and {self.groups} groups.")

    @property
    def downsampling(self) -> int:
        """Pixels of the map to one cell of the result, along each side."""
        return self.patch * 2 ** (len(self.channels) - 1)


class GuidanceEncoder(nnx.Module):
    """Convolutions down to the latent grid, one spatial attention a frame, and a convolution that starts at zero."""

    def __init__(self, config: GuidanceConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its geometry; rngs the source of initial parameters; policy its precision."""
        self.config = config
        self.compute = policy.compute
        channels = config.channels
        if not config.learned:
            return
        self.conv_in = conv(3 * config.patch**2, channels[0], rngs, policy)
        for i, (width, after) in enumerate(zip(channels, channels[1:])):
            setattr(self, f"block_{2 * i}", conv(width, width, rngs, policy))
            setattr(self, f"block_{2 * i + 1}", conv(width, after, rngs, policy, stride=2))
        self.attention = (
            SpatialTransformer(channels[-1], config.heads, config.groups, None, config.ff_mult, rngs, policy) if config.attention else None
        )
        self.conv_out = conv(channels[-1], config.out_channels, rngs, policy, zero=True)
        self.gate = nnx.Param(jnp.ones((config.out_channels,), policy.param)) if config.fusion == "gates" else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Encodes maps x [B,F,H,W,3], float in [0,1] -> [B,F,h,w,out_channels].

        Raises:
          UserError: H or W is not a multiple of the downsampling.
        """
        sizes = check_shape("guidance map", x, "B F H W 3")
        step = self.config.downsampling
        if sizes["H"] % step or sizes["W"] % step:
            raise UserError(f"guidance map: height and width must be multiples of {step}, got {x.shape[2:4]}.")
        if not self.config.learned:
            cells = rearrange(x, "b f (h row) (w column) c -> b f h row w column c", row=step, column=step).mean((3, 5))
            return jnp.tile(cells, -(-self.config.out_channels // 3))[..., : self.config.out_channels].astype(self.compute)
        hidden = self.convolve(fold_frames(x))
        if self.attention is not None:
            hidden, _ = self.attention(hidden, batch=sizes["B"])
        out = self.conv_out(hidden)
        if self.gate is not None:
            out = out * self.gate[...].astype(out.dtype)
        return unfold_frames(out, sizes["B"])

    def convolve(self, x: jax.Array) -> jax.Array:
        """The part before the attention: x [B*F,H,W,3] -> [B*F,h,w,channels[-1]]."""
        hidden = jax.nn.silu(self.conv_in(fold_patches(x.astype(self.compute), self.config.patch)))
        for i in range(2 * (len(self.config.channels) - 1)):
            hidden = jax.nn.silu(getattr(self, f"block_{i}")(hidden))
        return hidden


class Fusion(nnx.Module):
    """Attention over the kinds of guidance at each cell, added to their sum; nothing at first.

    DreamDance (arXiv 2412.00397) lets its geometric maps attend to each other so; which kind a feature is of is told by an
    embedding of its name, so that any subset will do, in any order.
    """

    def __init__(self, config: GuidanceConfig, kinds: tuple[str, ...], rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config of the encoders, of whose width it is; kinds that there are encoders for."""
        width = config.out_channels
        self.heads = config.heads
        self.kind = nnx.Dict({kind: nnx.Param(kernel_init(rngs.params(), (width,), policy.param)) for kind in kinds})
        self.norm = layer_norm(width, rngs, policy)
        self.to_q, self.to_k, self.to_v = (linear(width, width, rngs, policy, bias=False) for _ in range(3))
        self.to_out = linear(width, width, rngs, policy, zero=True)

    def __call__(self, encoded: Mapping[str, jax.Array], present: Mapping[str, jax.Array]) -> jax.Array:
        """What is added to the sum.

        Args:
          encoded: kind to [B,F,h,w,D0].
          present: kind to [B,F], 0 where the kind is not there: it is not looked at.

        Returns:
          [B,F,h,w,D0].
        """
        kinds = sorted(encoded)
        seen = jnp.stack([present[kind] > 0 for kind in kinds], axis=-1)[:, :, None, None]  # [B,F,1,1,G]
        tokens = jnp.stack([encoded[kind] + self.kind[kind][...].astype(encoded[kind].dtype) for kind in kinds], axis=-2)
        normed = self.norm(tokens)
        q, k, v = (split_heads(project(normed), self.heads) for project in (self.to_q, self.to_k, self.to_v))
        logits = jnp.einsum("...gkd,...mkd->...kgm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(seen[..., None, None, :], logits, -1e30), axis=-1)
        found = jnp.einsum("...kgm,...mkd->...gkd", weights.astype(v.dtype), v).reshape(tokens.shape)
        found = jnp.where(seen[..., None], found, 0).sum(axis=-2)
        return self.to_out(found / jnp.maximum(seen.sum(axis=-1, keepdims=True), 1).astype(found.dtype))


def fuse_guidance(
    encoders: Mapping[str, GuidanceEncoder],
    maps: Mapping[str, jax.Array],
    weights: Mapping[str, jax.Array] | None = None,
    fusion: Fusion | None = None,
    music: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array | None:
    """Encodes the maps that are there and sums them, as CHAMP does; with `fusion`, what their attention to each other adds too.

    Args:
      encoders: kind to encoder.
      maps: kind to [B,F,H,W,3] in [0,1]; any subset of the encoders' kinds.
      weights: kind to [B] or [B,F], what to multiply that kind by in each sample (0 drops it); kinds left out count as 1.
      fusion: of models that have one.
      music: the skeleton that music drives, [B,F,H,W,3], and its weight [B,F]: joins what `maps` has of the skeleton.

    Returns:
      [B,F,h,w,D0], or None when there is no map at all.

    Raises:
      UserError: a map of a kind without an encoder.
    """
    given = [(kind, x, None if weights is None else weights.get(kind)) for kind, x in maps.items()]
    given += [] if music is None else [("dwpose", *music)]
    unknown = sorted({kind for kind, *_ in given} - set(encoders))
    if unknown:
        raise UserError(f"guidance {unknown} given, but this model has encoders for {sorted(encoders)}.")
    given.sort(key=lambda item: GUIDANCE_KINDS.index(item[0]))  # sums in another order differ in their last bits
    encoded: dict[str, jax.Array] = {}
    present: dict[str, jax.Array] = {}
    for kind, x, weight in given:
        found, there = encoders[kind](x), jnp.ones(x.shape[:2])
        if weight is not None:
            there = jnp.broadcast_to(weight if weight.ndim == 2 else weight[:, None], x.shape[:2])
            found = found * there.astype(found.dtype)[:, :, None, None, None]
        encoded[kind] = encoded[kind] + found if kind in encoded else found
        present[kind] = present[kind] + there if kind in present else there
    if not encoded:
        return None
    total = sum(encoded.values())
    return total if fusion is None else total + fusion(encoded, present)
