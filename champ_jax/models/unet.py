"""The spatial UNet of Stable Diffusion 1.5 at any size, for both the reference network and the denoiser.

Frames are folded into the batch for all spatial work. The denoiser adds guidance after its first convolution, reads a
reference in its self-attentions and may hold temporal modules; the reference network is the same class without head
and temporal modules. Shapes and names follow diffusers' UNet2DConditionModel and CHAMP's UNet3DConditionModel.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.dims import check_shape
from champ_jax.errors import UserError
from champ_jax.models.temporal import TemporalConfig, TemporalModule
from champ_jax.nn.attention import KeyValue
from champ_jax.nn.blocks import ResnetBlock, SpatialTransformer
from champ_jax.nn.layers import GroupNorm, TimeEmbedding, conv, place_sinusoids, upsample_nearest
from champ_jax.nn.policy import Policy

ReferenceFeatures = dict[str, jax.Array]
"""Block name, as in "down_0/attention_1", to the tokens [B,N,D] its self-attention read."""

ProjectedReference = dict[str, KeyValue]
"""Block name to the keys and values [B,M,K,d] that the denoiser's block makes of such tokens."""


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Geometry of a UNet; the defaults are Stable Diffusion 1.5.

    Attributes:
      in_channels, out_channels: channels of the latents in and of the prediction.
      channels: width of each level, the finest first; guidance must have the first of them.
      attention_levels: which levels have spatial attention; the middle always has it.
      layers: resnets (and attentions) a level on the way down; one more on the way up.
      heads: attention heads at every level; means nothing where head_dim is given.
      groups: groups of the norms.
      context_dim: width of the context tokens; None leaves cross-attention out.
      ff_mult: width of the feed-forwards, in widths.
      head: whether norm and convolution to out_channels follow; the reference network has none.
      positions: whether sinusoids of each cell's place are added after the first convolution, so that attention finds the
        same place in the photo at once; Stable Diffusion learnt places from the padding's traces.
      head_dim: width of each attention head, for networks that have more heads at wider levels (Stable Diffusion 2, ModelScope).
      temporal: the temporal modules after each layer, None for none.
      remat: whether the backward pass recomputes each block's activations instead of keeping them.
    """

    in_channels: int = 4
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    layers: int = 2
    heads: int = 8
    groups: int = 32
    context_dim: int | None = 768
    ff_mult: int = 4
    head: bool = True
    positions: bool = False
    head_dim: int | None = None
    temporal: TemporalConfig | None = None
    remat: bool = False

    def __post_init__(self):
        if len(self.channels) != len(self.attention_levels):
            raise UserError(f"unet: channels {self.channels} and attention_levels {self.attention_levels} must name equally many levels.")
        for width in self.channels:
            if width % (self.head_dim or self.heads) or width % self.groups:
                heads = f"heads of width {self.head_dim}" if self.head_dim else f"{self.heads} heads"
                raise UserError(f"unet: width {width} must divide into {heads} and {self.groups} groups.")
            if self.temporal and (width % self.temporal.heads or width % self.temporal.groups):
                raise UserError(
                    f"unet: width {width} must divide into temporal.heads {self.temporal.heads} and temporal.groups {self.temporal.groups}."
                )

    def heads_at(self, width: int) -> int:
        """Number of attention heads at a level of this width."""
        return width // self.head_dim if self.head_dim else self.heads


class Conditions(NamedTuple):
    """What every layer of one forward pass may read besides its input."""

    time: jax.Array  # [B,E] after its SiLU
    context: jax.Array | None  # [B,L,Dc]
    reference: ProjectedReference
    reference_mask: jax.Array | None  # [B]
    temporal: bool

    @property
    def batch(self) -> int:
        """B, the number of clips."""
        return self.time.shape[0]


class Level(nnx.Module):
    """Layers of one resolution: resnet_i, then attention_i and temporal_i where the configuration has them."""

    def __init__(self, name: str, widths_in: list[int], width: int, attention: bool, config: UNetConfig, rngs, policy):
        self.name = name
        self.remat = config.remat
        for i, width_in in enumerate(widths_in):
            self._add_resnet(i, width_in, width, config, rngs, policy)
            if attention:
                transformer = SpatialTransformer(
                    width, config.heads_at(width), config.groups, config.context_dim, config.ff_mult, rngs, policy
                )
                setattr(self, f"attention_{i}", transformer)
            if config.temporal and (config.temporal.mid or name != "mid"):
                setattr(self, f"temporal_{i}", TemporalModule(width, config.temporal, rngs, policy))

    def _add_resnet(self, i, width_in, width, config, rngs, policy):
        resnet = ResnetBlock(width_in, width, 4 * config.channels[0], config.groups, rngs, policy)
        setattr(self, f"resnet_{i}", resnet)

    def layer(self, i: int, x: jax.Array, cond: Conditions) -> tuple[jax.Array, ReferenceFeatures]:
        """Runs layer i on x [B*F,h,w,C]; also returns what its attention, if it has one, offers as reference."""
        features = {}
        x = self._run(f"resnet_{i}", x, cond.time)
        if hasattr(self, f"attention_{i}"):
            name = f"{self.name}/attention_{i}"
            reference = cond.reference.get(name)
            x, features[name] = self._run(f"attention_{i}", x, cond.context, reference, cond.reference_mask, batch=cond.batch)
        if cond.temporal and hasattr(self, f"temporal_{i}"):
            x = self._run(f"temporal_{i}", x, batch=cond.batch)
        return x, features

    def _run(self, part: str, *args, **static):
        """Calls a submodule, keeping only its inputs for the backward pass where the configuration says remat."""
        call = functools.partial(getattr(self, part), **static)
        return (jax.checkpoint(call) if self.remat else call)(*args)


class DownLevel(Level):
    """A level on the way down; hands on a skip after each layer and after its downsampling."""

    def __init__(self, name, widths_in, width, attention, config, rngs, policy, resample: bool):
        super().__init__(name, widths_in, width, attention, config, rngs, policy)
        self.layers = len(widths_in)
        self.downsample = conv(width, width, rngs, policy, stride=2) if resample else None

    def __call__(self, x: jax.Array, cond: Conditions) -> tuple[jax.Array, list[jax.Array], ReferenceFeatures]:
        """x [B*F,h,w,C] -> the output at half the size (unless this is the coarsest level), skips, features."""
        skips, features = [], {}
        for i in range(self.layers):
            x, found = self.layer(i, x, cond)
            skips.append(x)
            features |= found
        if self.downsample is not None:
            x = self.downsample(x)
            skips.append(x)
        return x, skips, features


class MidLevel(Level):
    """The coarsest part: a layer with attention, then another resnet."""

    def __init__(self, width, config, rngs, policy):
        super().__init__("mid", [width], width, True, config, rngs, policy)
        self._add_resnet(1, width, width, config, rngs, policy)

    def __call__(self, x: jax.Array, cond: Conditions) -> tuple[jax.Array, ReferenceFeatures]:
        """x [B*F,h,w,C] -> the same shape, features."""
        x, features = self.layer(0, x, cond)
        return self._run("resnet_1", x, cond.time), features


class UpLevel(Level):
    """A level on the way up; every layer reads one skip, the last one first."""

    def __init__(self, name, widths_in, width, attention, config, rngs, policy, resample: bool):
        super().__init__(name, widths_in, width, attention, config, rngs, policy)
        self.upsample = conv(width, width, rngs, policy) if resample else None

    def __call__(
        self, x: jax.Array, skips: list[jax.Array], size: tuple[int, int], cond: Conditions
    ) -> tuple[jax.Array, ReferenceFeatures]:
        """x [B*F,h,w,C], this level's skips, and the size of the next level -> the output at that size, features."""
        features = {}
        for i, skip in enumerate(reversed(skips)):
            x, found = self.layer(i, jnp.concatenate([x, skip], axis=-1), cond)
            features |= found
        if self.upsample is not None:
            x = self.upsample(upsample_nearest(x, size))
        return x, features


class UNet(nnx.Module):
    """The UNet; submodules conv_in, time_embedding, down_0.., mid, up_0.. (the coarsest first), norm_out, conv_out."""

    def __init__(self, config: UNetConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its geometry; rngs the source of initial parameters; policy its precision."""
        self.config = config
        self.compute = policy.compute
        channels, layers, last = config.channels, config.layers, len(config.channels) - 1
        self.conv_in = conv(config.in_channels, channels[0], rngs, policy)
        self.time_embedding = TimeEmbedding(channels[0], rngs, policy)

        width, skips = channels[0], [channels[0]]
        for i, (out, attention) in enumerate(zip(channels, config.attention_levels)):
            widths_in = [width] + [out] * (layers - 1)
            level = DownLevel(f"down_{i}", widths_in, out, attention, config, rngs, policy, resample=i < last)
            setattr(self, f"down_{i}", level)
            skips += [out] * (layers + (i < last))
            width = out
        self.mid = MidLevel(width, config, rngs, policy)
        for i, (out, attention) in enumerate(zip(reversed(channels), reversed(config.attention_levels))):
            widths_in = [(width if j == 0 else out) + skips.pop() for j in range(layers + 1)]
            level = UpLevel(f"up_{i}", widths_in, out, attention, config, rngs, policy, resample=i < last)
            setattr(self, f"up_{i}", level)
            width = out
        if config.head:
            self.norm_out = GroupNorm(channels[0], config.groups, rngs, policy)
            self.conv_out = conv(channels[0], config.out_channels, rngs, policy)

    def __call__(
        self,
        latents: jax.Array,
        t: jax.Array,
        context: jax.Array | None,
        guidance: jax.Array | None = None,
        reference: ReferenceFeatures | ProjectedReference | None = None,
        reference_mask: jax.Array | None = None,
        temporal: bool = True,
    ) -> jax.Array:
        """Predicts from noisy latents.

        Args:
          latents: [B,F,h,w,C], any h and w.
          t: timesteps, [B] or a scalar for all.
          context: tokens [B,L,Dc]; one token takes the exact short cut past queries and keys. None only where the
            configuration has no context_dim.
          guidance: [B,F,h,w,channels[0]], added after the first convolution.
          reference: features of a reference network, or those projected by `project_reference`, which saves doing it
            in each call.
          reference_mask: [B], 0 for rows that must not see the reference (the unconditional half, dropout).
          temporal: False passes the temporal modules by, for frames that do not follow each other.

        Returns:
          [B,F,h,w,out_channels] in the compute dtype; without a head the last hidden state, [B,F,h,w,channels[0]].

        Raises:
          UserError: shapes that do not fit each other, or a reference whose blocks are not this network's.
        """
        hidden, _ = self.run(latents, t, context, guidance, reference, reference_mask, temporal)
        if self.config.head:
            hidden = self.conv_out(jax.nn.silu(self.norm_out(hidden)))
        return hidden.reshape(*latents.shape[:-1], -1)

    def run(self, latents, t, context, guidance=None, reference=None, reference_mask=None, temporal=True):
        """Does the work of `__call__`, without the head.

        Returns:
          The last hidden state [B*F,h,w,channels[0]], and the features of every attention block by name.
        """
        self._check(latents, context, guidance, reference_mask)
        batch = latents.shape[0]
        cond = self.conditions(batch, t, context, reference, reference_mask, temporal)
        x = self.conv_in(latents.astype(self.compute).reshape(-1, *latents.shape[2:]))
        if guidance is not None:
            x = x + guidance.reshape(x.shape).astype(x.dtype)
        if self.config.positions:
            x = x + place_sinusoids(x.shape[1:]).astype(x.dtype)
        skips, features = [x], {}
        levels = len(self.config.channels)
        for i in range(levels):
            x, new, found = getattr(self, f"down_{i}")(x, cond)
            skips += new
            features |= found
        x, found = self.mid(x, cond)
        features |= found
        for i in range(levels):
            taken = [skips.pop() for _ in range(self.config.layers + 1)][::-1]
            size = skips[-1].shape[1:3] if skips else x.shape[1:3]
            x, found = getattr(self, f"up_{i}")(x, taken, size, cond)
            features |= found
        return x, features

    def conditions(self, batch: int, t, context, reference=None, reference_mask=None, temporal=True) -> Conditions:
        """Prepares what the layers read: the embedded time, the context in compute dtype, the projected reference."""
        time = jax.nn.silu(self.time_embedding(jnp.broadcast_to(t, (batch,))))
        if reference and not isinstance(next(iter(reference.values())), tuple):
            reference = self.project_reference(reference)
        context = None if context is None else context.astype(self.compute)
        return Conditions(time, context, reference or {}, reference_mask, temporal)

    def project_reference(self, features: ReferenceFeatures) -> ProjectedReference:
        """Keys and values [B,M,K,d] that each attention block of this network makes of `features`, paired by name.

        Raises:
          UserError: the names are not exactly those of this network's attention blocks.
        """
        blocks = self.attention_blocks()
        if features.keys() != blocks.keys():
            raise UserError(
                f"reference features for blocks {sorted(features)} given to a denoiser with attention in "
                f"{sorted(blocks)}: both networks need the same levels, layers and attention_levels."
            )
        return {name: block.attn1.project(features[name].astype(self.compute)) for name, block in blocks.items()}

    def attention_blocks(self) -> dict[str, SpatialTransformer]:
        """Every spatial attention block by name, such as "down_0/attention_1" or "mid/attention_0"."""
        names = [f"{side}_{i}" for side in ("down", "up") for i in range(len(self.config.channels))]
        found = {}
        for level in names + ["mid"]:
            for i in range(self.config.layers + 1):
                block = getattr(getattr(self, level), f"attention_{i}", None)
                if block is not None:
                    found[f"{level}/attention_{i}"] = block
        return found

    def _check(self, latents, context, guidance, reference_mask):
        sizes = check_shape("latents", latents, f"B F h w {self.config.in_channels}")
        if self.config.context_dim is not None:
            check_shape("context", context, f"B L {self.config.context_dim}", sizes)
        if guidance is not None:
            check_shape("guidance", guidance, f"B F h w {self.config.channels[0]}", sizes)
        if reference_mask is not None:
            check_shape("reference_mask", reference_mask, "B", sizes)
