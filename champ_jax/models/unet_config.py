"""Geometry of a UNet and of its temporal modules."""

from __future__ import annotations

import dataclasses

from champ_jax.errors import UserError, did_you_mean

TEMPORAL_KINDS = ("animatediff", "modelscope", "conv3d", "transformer", "hybrid")
IDENTITIES = ("aligned", "plain")


@dataclasses.dataclass(frozen=True)
class TemporalConfig:
    """Which temporal modules, and their geometry.

    Attributes:
      kind: "animatediff", attention over frames with sinusoidal positions; "modelscope", convolution over frames after each
        resnet and attention without positions after each spatial attention; "conv3d", convolutions over space and time;
        "transformer", attention with rotary positions, for windows of any length; "hybrid", convolution and attention
        mixed by a learnt share.
      heads: attention heads over frames; with head_dim, those of the first transformer alone.
      groups: groups of the norm in front; AnimateDiff has 32 at every width.
      max_frames: longest window of "animatediff", whose positions are sinusoids and restart at 0 in every window; the other
        kinds have no limit.
      blocks: transformer blocks a module ("animatediff", "transformer").
      attentions: attentions over frames in each block ("animatediff").
      ff_mult: width of the feed-forward, in widths.
      mid: whether the coarsest level has a module; AnimateDiff's v1 and v3 have none there.
      clip_norm: whether the norm in front has the whole clip's statistics, as diffusers has it, which changes what the same
        weights do; AnimateDiff, and CHAMP with it, has each frame's own ("animatediff").
      head_dim: width of each head of "modelscope", at every level; 64 in ModelScope's weights.
    """

    kind: str = "animatediff"
    heads: int = 8
    groups: int = 32
    max_frames: int = 32
    blocks: int = 1
    attentions: int = 2
    ff_mult: int = 4
    mid: bool = True
    clip_norm: bool = False
    head_dim: int | None = None

    def __post_init__(self):
        if self.kind not in TEMPORAL_KINDS:
            raise UserError(
                f"temporal.kind is {self.kind!r}{did_you_mean(self.kind, TEMPORAL_KINDS)}: expected one of {', '.join(TEMPORAL_KINDS)}."
            )

    def heads_at(self, width: int) -> int:
        """Number of attention heads at a level of this width."""
        return width // self.head_dim if self.head_dim else self.heads

    def check(self, width: int) -> None:
        """Raises UserError for a width that does not divide into heads and groups; of rotary heads, into even ones."""
        heads = self.heads_at(width)
        if not heads or width % heads or width % self.groups or (self.kind in ("transformer", "hybrid") and width // heads % 2):
            raise UserError(
                f"unet: width {width} must divide into {heads} temporal heads (rotary ones of even width) and "
                f"temporal.groups {self.groups}."
            )


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
        if not self.channels or len(self.channels) != len(self.attention_levels):
            raise UserError(
                f"unet: channels {self.channels} and attention_levels {self.attention_levels} must name equally many levels, at least one."
            )
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
