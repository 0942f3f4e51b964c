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
from champ_jax.models.temporal import TemporalConfig, first_transformer, temporal_layers
from champ_jax.nn.blocks import BlockFeatures, BlockReference, Read, ResnetBlock, SpatialTransformer
from champ_jax.nn.frames import over_frames
from champ_jax.nn.kernels import shares, sources_seen
from champ_jax.nn.layers import GroupNorm, TimeEmbedding, conv, place_sinusoids, upsample_nearest
from champ_jax.nn.policy import Policy

ReferenceFeatures = dict[str, BlockFeatures]
"""Block name, as in "down_0/attention_1", to what that block of a reference network offers, with tokens [B,R,N,D] and
moments [B,R,2,C] of R references."""

ProjectedReference = dict[str, BlockReference]
"""Block name to what the denoiser's block makes of them."""

IDENTITIES = ("aligned", "plain")
COARSE = "@2"
"""After a block's name: what the block offers of the references at half their size."""


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
      identity: how the tokens of a face are read beside the context: "aligned" as StableAnimator does, "plain" as
        IP-Adapter does; None for not at all.
      style: the levels (0 is the finest, the middle counts as the coarsest) whose attention blocks take on the reference's
        statistics; None for none. Levels without attention have none to take.
      coarse: the levels whose attention blocks also read the reference at half its size; None for none.
      reference_attention: whether the blocks read the reference's tokens; False, with style, takes the style alone, not the
        person.
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
    identity: str | None = None
    style: tuple[int, ...] | None = None
    coarse: tuple[int, ...] | None = None
    reference_attention: bool = True
    remat: bool = False

    def __post_init__(self):
        if len(self.channels) != len(self.attention_levels):
            raise UserError(f"unet: channels {self.channels} and attention_levels {self.attention_levels} must name equally many levels.")
        if self.identity is not None and (self.identity not in IDENTITIES or self.context_dim is None):
            raise UserError(f"unet.identity is {self.identity!r}: expected one of {', '.join(IDENTITIES)}, and a context_dim.")
        for name in ("style", "coarse"):
            wrong = [level for level in getattr(self, name) or () if level not in range(len(self.channels))]
            if wrong:
                raise UserError(f"unet.{name} names levels {wrong}: there are 0 to {len(self.channels) - 1}.")
        if not self.reference_attention and (self.coarse or not self.style):
            raise UserError("unet.reference_attention=False leaves the style alone: give unet.style, and leave unet.coarse out.")
        for width in self.channels:
            if width % (self.head_dim or self.heads) or width % self.groups:
                heads = f"heads of width {self.head_dim}" if self.head_dim else f"{self.heads} heads"
                raise UserError(f"unet: width {width} must divide into {heads} and {self.groups} groups.")
            if self.temporal:
                self.temporal.check(width)

    def heads_at(self, width: int) -> int:
        """Number of attention heads at a level of this width."""
        return width // self.head_dim if self.head_dim else self.heads


class Conditions(NamedTuple):
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
        return over_frames(seen.reshape(*seen.shape[:2], *size, -1))


def share_at(share: jax.Array | None, size: tuple[int, int]) -> jax.Array | None:
    """Shares for each cell of frames of another size: those of the cell in the middle of it, [B,F,h*w,R]; others as they are."""
    if share is None or share.ndim == 2:
        return share
    rows, columns = (jnp.floor((jnp.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(size, share.shape[2:4]))
    return share[:, :, rows][:, :, :, columns].reshape(*share.shape[:2], -1, share.shape[-1])


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

    def layer(self, i: int, x: jax.Array, cond: Conditions) -> tuple[jax.Array, ReferenceFeatures]:
        """Runs layer i on x [B*F,h,w,C]; also returns what its attention, if it has one, offers as reference."""
        features = {}
        x = self._run(f"resnet_{i}", x, cond.time)
        x = self._temporal(f"temporal_conv_{i}", x, cond)
        if hasattr(self, f"attention_{i}"):
            name = f"{self.name}/attention_{i}"
            x, features[name] = self._run(f"attention_{i}", x, cond.read(name, x.shape[1:3]), batch=cond.batch)
        return self._temporal(f"temporal_{i}", x, cond), features

    def _temporal(self, part: str, x: jax.Array, cond: Conditions) -> jax.Array:
        """A temporal layer, where there is one and frames follow each other."""
        if not (cond.temporal and hasattr(self, part)):
            return x
        return self._run(part, x, batch=cond.batch, seen=cond.seen_over_frames(x.shape[1:3]))

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

    def __init__(self, config, rngs, policy):
        width = config.channels[-1]
        super().__init__("mid", len(config.channels) - 1, [width], config, rngs, policy)
        self._add_resnet(1, width, width, config, rngs, policy)
        if config.temporal and config.temporal.kind == "modelscope":
            self.temporal_conv_1 = temporal_layers(width, False, config.temporal, rngs, policy)["temporal_conv"]

    def __call__(self, x: jax.Array, cond: Conditions) -> tuple[jax.Array, ReferenceFeatures]:
        """x [B*F,h,w,C] -> the same shape, features."""
        x, features = self.layer(0, x, cond)
        return self._temporal("temporal_conv_1", self._run("resnet_1", x, cond.time), cond), features


class UpLevel(Level):
    """A level on the way up; every layer reads one skip, the last one first."""

    def __init__(self, name, index, widths_in, config, rngs, policy, resample: bool):
        super().__init__(name, index, widths_in, config, rngs, policy)
        width = config.channels[index]
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
        if config.temporal and config.temporal.kind == "modelscope":
            self.temporal_first = first_transformer(channels[0], config.temporal, rngs, policy)

        width, skips = channels[0], [channels[0]]
        for i, out in enumerate(channels):
            widths_in = [width] + [out] * (layers - 1)
            level = DownLevel(f"down_{i}", i, widths_in, config, rngs, policy, resample=i < last)
            setattr(self, f"down_{i}", level)
            skips += [out] * (layers + (i < last))
            width = out
        self.mid = MidLevel(config, rngs, policy)
        for i, out in enumerate(reversed(channels)):
            widths_in = [(width if j == 0 else out) + skips.pop() for j in range(layers + 1)]
            level = UpLevel(f"up_{i}", last - i, widths_in, config, rngs, policy, resample=i < last)
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
        reference_weight: jax.Array | None = None,
        face: tuple[jax.Array, jax.Array] | None = None,
        temporal: bool = True,
        deep: jax.Array | None = None,
        return_deep: bool = False,
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Predicts from noisy latents.

        Args:
          latents: [B,F,h,w,C], any h and w.
          t: timesteps, [B] or a scalar for all.
          context: tokens [B,L,Dc]; one token takes the exact short cut past queries and keys. Or [B,R,1,Dc], a token of each
            reference, which count as these do, without a face. None only where the configuration has no context_dim.
          guidance: [B,F,h,w,channels[0]], added after the first convolution.
          reference: features of a reference network, or those projected by `project_reference`, which saves doing it
            in each call.
          reference_weight: what each of R references counts beside the others, of at least 0: [B,R], or [B,F,h,w,R] where
            each cell has references of its own (several people); where all are 0 (the unconditional half, dropout, no
            person's cell) no reference is seen. None makes all alike.
          face: tokens [B,F,n,Dc] of each frame's face, or [B,1,n,Dc] for all frames, and [B], 0 for rows that have none;
            None for none at all.
          temporal: False passes the temporal modules by, for frames that do not follow each other.
          deep: what the levels below the finest gave in an earlier step, [B,F,h,w,channels[1]], in place of running them
            (DeepCache, Ma et al. 2023, arXiv 2312.00858). Networks of one level have none.
          return_deep: whether to return that of this step too.

        Returns:
          [B,F,h,w,out_channels] in the compute dtype; without a head the last hidden state, [B,F,h,w,channels[0]]. With
          return_deep a pair of that and [B,F,h,w,channels[1]].

        Raises:
          UserError: shapes that do not fit each other, or a reference whose blocks are not this network's.
        """
        if deep is not None:
            deep = deep.reshape(-1, *deep.shape[2:]).astype(self.compute)
        hidden, _, deep = self.run(latents, t, context, guidance, reference, reference_weight, face, temporal, deep)
        if self.config.head:
            hidden = self.conv_out(jax.nn.silu(self.norm_out(hidden)))
        prediction, deep = (x.reshape(*latents.shape[:-1], -1) for x in (hidden, deep))
        return (prediction, deep) if return_deep else prediction

    def run(self, latents, t, context, guidance=None, reference=None, reference_weight=None, face=None, temporal=True, deep=None):
        """Does the work of `__call__`, without the head.

        Returns:
          The last hidden state [B*F,h,w,channels[0]], the features of every attention block by name, and the hidden state
          that the levels below the finest leave to it, [B*F,h,w,channels[1]].
        """
        self._check(latents, context, guidance, reference_weight, face)
        batch = latents.shape[0]
        cond = self.conditions(batch, t, context, reference, reference_weight, face, temporal)
        x = self.conv_in(latents.astype(self.compute).reshape(-1, *latents.shape[2:]))
        if guidance is not None:
            x = x + guidance.reshape(x.shape).astype(x.dtype)
        if self.config.positions:
            x = x + place_sinusoids(x.shape[1:]).astype(x.dtype)
        if temporal and hasattr(self, "temporal_first"):
            x = self.temporal_first(x, batch, cond.seen_over_frames(x.shape[1:3]))
        levels, finest = len(self.config.channels), self.config.layers + 1
        skips, features = [x], {}
        for i in range(levels if deep is None else 1):
            x, new, found = getattr(self, f"down_{i}")(x, cond)
            skips += new
            features |= found
        if deep is None:
            x, found = self.mid(x, cond)
            features |= found
            for i in range(levels - 1):
                x, found = getattr(self, f"up_{i}")(x, [skips.pop() for _ in range(finest)][::-1], skips[-1].shape[1:3], cond)
                features |= found
            deep = x
        last = getattr(self, f"up_{levels - 1}")
        x, found = last(deep, skips[:finest], deep.shape[1:3], cond)
        return x, features | found, deep

    def conditions(self, batch, t, context, reference=None, reference_weight=None, face=None, temporal=True) -> Conditions:
        """Prepares what the layers read: the embedded time, tokens in compute dtype, the projected reference and shares."""
        time = jax.nn.silu(self.time_embedding(jnp.broadcast_to(t, (batch,))))
        if reference and isinstance(next(iter(reference.values())), BlockFeatures):
            reference = self.project_reference(reference)
        context = None if context is None else context.astype(self.compute)
        face = None if face is None else (face[0].astype(self.compute), face[1])
        share = None if reference_weight is None else shares(reference_weight.astype(jnp.float32))
        return Conditions(time, context, reference or {}, share, face, temporal)

    def project_reference(self, features: ReferenceFeatures) -> ProjectedReference:
        """What each attention block of this network makes of `features`, paired by name.

        Raises:
          UserError: the names are not exactly those of this network's attention blocks, or a block reads a smaller picture
            of the reference and there is none.
        """
        blocks = self.attention_blocks()
        own = {name: part for name, part in features.items() if not name.endswith(COARSE)}
        if own.keys() != blocks.keys():
            raise UserError(
                f"reference features for blocks {sorted(own)} given to a denoiser with attention in "
                f"{sorted(blocks)}: both networks need the same levels, layers and attention_levels."
            )
        return {name: self._project(block, name, features) for name, block in blocks.items()}

    def _project(self, block: SpatialTransformer, name: str, features: ReferenceFeatures) -> BlockReference:
        keys, coarse = (None, None), None
        if self.config.reference_attention:
            keys = block.attn1.project(features[name].tokens.astype(self.compute))
        if block.coarse is not None:
            if name + COARSE not in features:
                raise UserError(f"{name} reads the reference at half its size too, and its features are not there.")
            coarse = block.attn1.project(features[name + COARSE].tokens.astype(self.compute))
        return BlockReference(*keys, coarse, features[name].moments)

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

    def _check(self, latents, context, guidance, reference_weight, face):
        sizes = check_shape("latents", latents, f"B F h w {self.config.in_channels}")
        if self.config.context_dim is not None:
            each = context.ndim == 4 and face is None
            check_shape("context", context, f"B R 1 {self.config.context_dim}" if each else f"B L {self.config.context_dim}", sizes)
        if guidance is not None:
            check_shape("guidance", guidance, f"B F h w {self.config.channels[0]}", sizes)
        if reference_weight is not None:
            check_shape("reference_weight", reference_weight, "B F h w R" if reference_weight.ndim == 5 else "B R", {**sizes})
