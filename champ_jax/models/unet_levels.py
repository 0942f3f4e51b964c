"""The levels of a UNet: the layers of one resolution, on the way down, in the middle and on the way up, and what they read."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from champ_jax.models.temporal import temporal_layers
from champ_jax.models.unet_config import UNetConfig
from champ_jax.nn.blocks import BlockFeatures, BlockReference, Read, ResnetBlock, SpatialTransformer
from champ_jax.nn.kernels import sources_seen
from champ_jax.nn.layers import conv, upsample_nearest

ReferenceFeatures = dict[str, BlockFeatures]
"""Block name, as in "down_0/attention_1", to what that block of a reference network offers, with tokens [B,R,N,D] and
moments [B,R,2,C] of R references."""

ProjectedReference = dict[str, BlockReference]
"""Block name to what the denoiser's block makes of them."""


class SideInputs(NamedTuple):
    """What every layer of one forward pass may read besides its input."""

    time: jax.Array  # [B,E] after its SiLU
    context: jax.Array | None  # [B,L,Dc]
    reference: ProjectedReference
    share: jax.Array | None  # [B,R] or [B,F,h,w,R]
    face: tuple[jax.Array, jax.Array] | None  # [B,F or 1,n,Dc], [B]
    temporal: bool

    @property
    def batch(self) -> int:
        """B, the number of clips."""
        return self.time.shape[0]

    def read(self, block: str, size: tuple[int, int]) -> Read:
        """What an attention block reads whose frames have `size` cells."""
        return Read(self.context, self.reference.get(block), share_at(self.share, size), self.face)

    def seen_over_frames(self, size: tuple[int, int]) -> jax.Array | None:
        """Which references each frame of a position of `size` cells may see, [B*h*w,F,R]; None where all see the same."""
        if self.share is None or self.share.ndim == 2:
            return None
        seen = sources_seen(share_at(self.share, size))
        return rearrange(seen, "b f (h w) r -> (b h w) f r", h=size[0])


def share_at(share: jax.Array | None, size: tuple[int, int]) -> jax.Array | None:
    """Shares for each cell of frames of another size: those of the cell in the middle of it, [B,F,h*w,R]; others as they are."""
    if share is None or share.ndim == 2:
        return share
    rows, columns = (jnp.floor((jnp.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(size, share.shape[2:4]))
    return rearrange(share[:, :, rows][:, :, :, columns], "b f h w r -> b f (h w) r")


class Level(nnx.Module):
    """Layers of one resolution: resnet_i, attention_i and temporal layers where the configuration has them."""

    def __init__(self, name: str, index: int, widths_in: list[int], config: UNetConfig, rngs, policy):
        """Args: name of the level; index of its resolution, 0 for the finest; widths_in of its layers."""
        self.name, self.remat = name, config.remat
        width = config.channels[index]
        for i, width_in in enumerate(widths_in):
            self._add_resnet(i, width_in, width, config, rngs, policy)
            attention = name == "mid" or config.attention_levels[index]
            if attention:
                transformer = SpatialTransformer(
                    width, config.heads_at(width), config.groups, config.context_dim, config.ff_mult, rngs, policy,
                    config.identity, style=index in (config.style or ()), coarse=index in (config.coarse or ()),
                )  # fmt: skip
                setattr(self, f"attention_{i}", transformer)
            if config.temporal and (config.temporal.mid or name != "mid"):
                for kind, module in temporal_layers(width, attention, config.temporal, rngs, policy).items():
                    setattr(self, f"{kind}_{i}", module)

    def _add_resnet(self, i, width_in, width, config, rngs, policy):
        resnet = ResnetBlock(width_in, width, 4 * config.channels[0], config.groups, rngs, policy)
        setattr(self, f"resnet_{i}", resnet)

    def layer(self, i: int, x: jax.Array, side: SideInputs) -> tuple[jax.Array, ReferenceFeatures]:
        """Runs layer i on x [B*F,h,w,C]; also returns what its attention, if it has one, offers as reference."""
        features = {}
        x = self._run(f"resnet_{i}", x, side.time)
        x = self._temporal(f"temporal_conv_{i}", x, side)
        if hasattr(self, f"attention_{i}"):
            name = f"{self.name}/attention_{i}"
            x, features[name] = self._run(f"attention_{i}", x, side.read(name, x.shape[1:3]), batch=side.batch)
        return self._temporal(f"temporal_{i}", x, side), features

    def _temporal(self, part: str, x: jax.Array, side: SideInputs) -> jax.Array:
        """A temporal layer, where there is one and frames follow each other."""
        if not (side.temporal and hasattr(self, part)):
            return x
        return self._run(part, x, batch=side.batch, seen=side.seen_over_frames(x.shape[1:3]))

    def _run(self, part: str, *args, **static):
        """Calls a submodule, keeping only its inputs for the backward pass where the configuration says remat."""
        call = functools.partial(getattr(self, part), **static)
        return (jax.checkpoint(call) if self.remat else call)(*args)


class DownLevel(Level):
    """A level on the way down; hands on a skip after each layer and after its downsampling."""

    def __init__(self, name, index, widths_in, config, rngs, policy, resample: bool):
        super().__init__(name, index, widths_in, config, rngs, policy)
        self.layers, width = len(widths_in), config.channels[index]
        self.downsample = conv(width, width, rngs, policy, stride=2) if resample else None

    def __call__(self, x: jax.Array, side: SideInputs) -> tuple[jax.Array, list[jax.Array], ReferenceFeatures]:
        """x [B*F,h,w,C] -> the output at half the size (unless this is the coarsest level), skips, features."""
        skips, features = [], {}
        for i in range(self.layers):
            x, found = self.layer(i, x, side)
            skips.append(x)
            features |= found
        if self.downsample is not None:
            x = self.downsample(x)
            skips.append(x)
        return x, skips, features


class MidLevel(Level):
    """The coarsest part: a layer with attention, then another resnet."""

    def __init__(self, config, rngs, policy):
        width = config.channels[-1]
        super().__init__("mid", len(config.channels) - 1, [width], config, rngs, policy)
        self._add_resnet(1, width, width, config, rngs, policy)
        if config.temporal and config.temporal.kind == "modelscope":
            self.temporal_conv_1 = temporal_layers(width, False, config.temporal, rngs, policy)["temporal_conv"]

    def __call__(self, x: jax.Array, side: SideInputs) -> tuple[jax.Array, ReferenceFeatures]:
        """x [B*F,h,w,C] -> the same shape, features."""
        x, features = self.layer(0, x, side)
        return self._temporal("temporal_conv_1", self._run("resnet_1", x, side.time), side), features


class UpLevel(Level):
    """A level on the way up; every layer reads one skip, the last one first."""

    def __init__(self, name, index, widths_in, config, rngs, policy, resample: bool):
        super().__init__(name, index, widths_in, config, rngs, policy)
        width = config.channels[index]
        self.upsample = conv(width, width, rngs, policy) if resample else None

    def __call__(
        self, x: jax.Array, skips: list[jax.Array], size: tuple[int, int], side: SideInputs
    ) -> tuple[jax.Array, ReferenceFeatures]:
        """x [B*F,h,w,C], this level's skips, and the size of the next level -> the output at that size, features."""
        features = {}
        for i, skip in enumerate(reversed(skips)):
            x, found = self.layer(i, jnp.concatenate([x, skip], axis=-1), side)
            features |= found
        if self.upsample is not None:
            x = self.upsample(upsample_nearest(x, size))
        return x, features
