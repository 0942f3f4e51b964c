"""Guidance encoders: one a kind of map (depth, normal, semantic map, pose), and the sum of what they say.

CHAMP's models/guidance_encoder.py, of which only the last attention ever runs; the others, which its checkpoints also
hold, do not exist here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
from flax import nnx

from champ_jax.dims import check_shape
from champ_jax.errors import UserError
from champ_jax.nn.blocks import SpatialTransformer
from champ_jax.nn.layers import conv, fold_patches
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
    """

    channels: tuple[int, ...] = (16, 32, 96, 256)
    patch: int = 1
    attention: bool = True
    out_channels: int = 320
    heads: int = 8
    groups: int = 32
    ff_mult: int = 4

    def __post_init__(self):
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
        self.conv_in = conv(3 * config.patch**2, channels[0], rngs, policy)
        for i, (width, after) in enumerate(zip(channels, channels[1:])):
            setattr(self, f"block_{2 * i}", conv(width, width, rngs, policy))
            setattr(self, f"block_{2 * i + 1}", conv(width, after, rngs, policy, stride=2))
        self.attention = (
            SpatialTransformer(channels[-1], config.heads, config.groups, None, config.ff_mult, rngs, policy) if config.attention else None
        )
        self.conv_out = conv(channels[-1], config.out_channels, rngs, policy, zero=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Encodes maps x [B,F,H,W,3], float in [0,1] -> [B,F,h,w,out_channels].

        Raises:
          UserError: H or W is not a multiple of the downsampling.
        """
        sizes = check_shape("guidance map", x, "B F H W 3")
        step = self.config.downsampling
        if sizes["H"] % step or sizes["W"] % step:
            raise UserError(f"guidance map: height and width must be multiples of {step}, got {x.shape[2:4]}.")
        hidden = self.convolve(x.reshape(-1, *x.shape[2:]))
        if self.attention is not None:
            hidden, _ = self.attention(hidden, batch=sizes["B"])
        out = self.conv_out(hidden)
        return out.reshape(*x.shape[:2], *out.shape[1:])

    def convolve(self, x: jax.Array) -> jax.Array:
        """The part before the attention: x [B*F,H,W,3] -> [B*F,h,w,channels[-1]]."""
        hidden = jax.nn.silu(self.conv_in(fold_patches(x.astype(self.compute), self.config.patch)))
        for i in range(2 * (len(self.config.channels) - 1)):
            hidden = jax.nn.silu(getattr(self, f"block_{i}")(hidden))
        return hidden


def fuse_guidance(
    encoders: Mapping[str, GuidanceEncoder],
    maps: Mapping[str, jax.Array],
    weights: Mapping[str, jax.Array] | None = None,
) -> jax.Array | None:
    """Sums the encodings of the maps that are there, as CHAMP does.

    Args:
      encoders: kind to encoder.
      maps: kind to [B,F,H,W,3] in [0,1]; any subset of the encoders' kinds.
      weights: kind to [B], what to multiply that kind by in each sample (0 drops it); kinds left out count as 1.

    Returns:
      [B,F,h,w,D0], or None when `maps` is empty.

    Raises:
      UserError: a map of a kind without an encoder.
    """
    unknown = sorted(set(maps) - set(encoders))
    if unknown:
        raise UserError(f"guidance {unknown} given, but this model has encoders for {sorted(encoders)}.")
    total = None
    for kind, x in maps.items():
        encoded = encoders[kind](x)
        if weights is not None and kind in weights:
            encoded = encoded * weights[kind].astype(encoded.dtype)[:, None, None, None, None]
        total = encoded if total is None else total + encoded
    return total
