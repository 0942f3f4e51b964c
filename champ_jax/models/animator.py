"""The whole model: which networks there are, built from one configuration, and its parameters as a plain dict."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from types import UnionType
from typing import Any

from flax import nnx

from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.errors import UserError, did_you_mean
from champ_jax.models.clip import CLIP, CLIPConfig
from champ_jax.models.face_id import FaceID, FaceIDConfig
from champ_jax.models.guidance import Fusion, GuidanceConfig, GuidanceEncoder
from champ_jax.models.m2p import M2P, M2PConfig
from champ_jax.models.temporal import TemporalConfig
from champ_jax.models.unet import UNet, UNetConfig
from champ_jax.models.vae import VAE, VAEConfig
from champ_jax.nn.keys import ParamKeys
from champ_jax.nn.policy import Policy
from champ_jax.nn.quantised import dequantise, multiply_in_eight_bits

Params = dict[str, Any]
"""Nested plain dict of arrays, with paths such as denoiser/down_0/attention_1/attn1/to_q/kernel."""


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The arguments of `champ_jax.diffusion.schedule.make_schedule`: a model is only right with its own schedule."""

    kind: str = "linear"
    steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_snr: bool = True
    prediction: str = "v"
    scale_input: bool = False


@dataclasses.dataclass(frozen=True)
class AnimatorConfig:
    """Which networks make up a model, and their geometry; the defaults are CHAMP's.

    Attributes:
      unet: the denoiser; the reference network is the same without head and temporal modules.
      guidance: geometry of every guidance encoder.
      kinds: the kinds of guidance there are encoders for, in the order of `GUIDANCE_KINDS`.
      vae: the autoencoder.
      clip: the image encoder whose embedding is the context token; None for a model without.
      m2p: the network from music to pose; None for a model without.
      schedule: the noise schedule the denoiser is trained for.
      reference: whether there is a reference network; a model without one never sees the photo, which shows what the
        photo is worth.
      reference_pose: whether the reference network also reads the skeleton of the photo's person, through the dwpose
        encoder. It tells attention which limb of the photo is which (UniAnimate, arXiv 2406.01188, does so); CHAMP does not.
      face_id: the network that makes tokens of the person's face, which the denoiser reads as `unet.identity` says; None
        for a model without.
    """

    unet: UNetConfig = UNetConfig(temporal=TemporalConfig())
    guidance: GuidanceConfig = GuidanceConfig()
    kinds: tuple[str, ...] = GUIDANCE_KINDS
    vae: VAEConfig = VAEConfig()
    clip: CLIPConfig | None = None
    m2p: M2PConfig | None = None
    schedule: ScheduleConfig = ScheduleConfig()
    reference: bool = True
    reference_pose: bool = False
    face_id: FaceIDConfig | None = None

    def __post_init__(self):
        unknown = [kind for kind in self.kinds if kind not in GUIDANCE_KINDS]
        if unknown or not self.kinds:
            raise UserError(f"kinds: expected some of {GUIDANCE_KINDS}, got {tuple(self.kinds)}.")
        if not self.reference and (self.clip or self.reference_pose):
            raise UserError("a model without reference never sees the photo: leave out clip and reference_pose too.")
        if self.reference_pose and "dwpose" not in self.kinds:
            raise UserError(f"reference_pose needs the dwpose encoder, but kinds are {tuple(self.kinds)}.")
        if not self.reference and (self.unet.style or self.unet.coarse):
            raise UserError(
                "a model without reference has no style to take and no smaller photo to read: leave out unet.style and unet.coarse."
            )
        if (self.face_id is None) != (self.unet.identity is None):
            raise UserError("face_id makes the tokens that unet.identity reads: give both, or leave both out.")
        if self.unet.identity == "aligned" and not self.clip:
            raise UserError(
                "unet.identity 'aligned' takes on the statistics of the image token, and without clip there is none: use 'plain'."
            )
        if self.face_id and {self.face_id.width, self.face_id.clip_width} != {self.unet.context_dim}:
            raise UserError(
                f"face_id.width {self.face_id.width} and face_id.clip_width {self.face_id.clip_width} must equal unet.context_dim "
                f"{self.unet.context_dim}: its tokens stand beside the image token, which it reads."
            )
        if self.face_id and self.m2p and self.face_id.embedding != self.m2p.face_dim:
            raise UserError(
                f"face_id.embedding {self.face_id.embedding} must equal m2p.face_dim {self.m2p.face_dim}: both are of one face model."
            )
        if self.guidance.out_channels != self.unet.channels[0]:
            raise UserError(
                f"guidance.out_channels is {self.guidance.out_channels}, but guidance is added to the denoiser's first "
                f"level, unet.channels[0] = {self.unet.channels[0]}: make them equal."
            )
        if self.guidance.downsampling != self.vae.downsampling:
            raise UserError(
                f"guidance encoders shrink {self.guidance.downsampling} times and the VAE {self.vae.downsampling} times: "
                "both must reach the same latent grid."
            )
        if {self.unet.in_channels, self.unet.out_channels} != {self.vae.latent_channels}:
            raise UserError(
                f"unet.in_channels {self.unet.in_channels} and unet.out_channels {self.unet.out_channels} must equal "
                f"vae.latent_channels {self.vae.latent_channels}."
            )
        if self.clip and self.clip.projection != self.unet.context_dim:
            raise UserError(
                f"clip.projection {self.clip.projection} must equal unet.context_dim {self.unet.context_dim}: the image "
                "embedding is the context token."
            )

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> AnimatorConfig:
        """Builds from nested plain mappings (a dict or a ConfigDict) of these fields; None leaves a network out.

        Raises:
          UserError: a name that is none of the fields, a value of another type, or geometry that does not fit together.
        """
        return _build(cls, values, "model")


_PARTS = {
    "unet": UNetConfig,
    "temporal": TemporalConfig,
    "guidance": GuidanceConfig,
    "vae": VAEConfig,
    "clip": CLIPConfig,
    "m2p": M2PConfig,
    "face_id": FaceIDConfig,
    "schedule": ScheduleConfig,
}


def _build(cls, values: Mapping[str, Any], where: str):
    """An instance of dataclass `cls`: groups become their own dataclasses, lists tuples; UserError for what does not fit."""
    known, types = {field.name: field for field in dataclasses.fields(cls)}, typing.get_type_hints(cls)
    fields = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where} has no field {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}.")
        if hasattr(value, "items") and name in _PARTS:
            value = _build(_PARTS[name], value, f"{where}.{name}")
        value = fields[name] = tuple(value) if isinstance(value, list) else value
        least = 0 if name.endswith("layers") or name in ("style", "coarse") else 1  # levels count from 0
        if not _fits(value, types[name], least):
            bounds = {"int": f", numbers from {least},", "float": ", a finite number,"}
            expected = known[name].type + next((text for kind, text in bounds.items() if kind in known[name].type), "")
            raise UserError(f"{where}.{name} is {value!r}: expected {expected} such as {known[name].default!r}.")
    return cls(**fields)


def _fits(value: Any, kind: Any, least: int) -> bool:
    """Whether a value is of a field's type; whole numbers are not below `least`, others finite."""
    inside = typing.get_args(kind)
    if isinstance(kind, UnionType):
        return any(_fits(value, option, least) for option in inside)
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(part, inside[0], least) for part in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is int and value >= least if kind is int else isinstance(value, kind)


class Animator(nnx.Module):
    """All networks of one model; `reference`, `clip`, `m2p` and `face_id` are None where the configuration has none.

    Attributes:
      denoiser, reference: UNets of the same geometry.
      guidance: kind to encoder.
      vae, clip, m2p, face_id: see their modules.
      fusion: of what the encoders say, or None.
    """

    def __init__(self, config: AnimatorConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config what to build; rngs the source of initial parameters; policy its precision."""
        self.config = config
        self.denoiser = UNet(config.unet, rngs, policy)
        same = reference_config(config.unet)
        self.reference = UNet(same, rngs, policy) if config.reference else None
        self.guidance = nnx.Dict({kind: GuidanceEncoder(config.guidance, rngs, policy) for kind in config.kinds})
        self.vae = VAE(config.vae, rngs, policy)
        self.clip = CLIP(config.clip, rngs, policy) if config.clip else None
        self.m2p = M2P(config.m2p, rngs, policy) if config.m2p else None
        self.face_id = FaceID(config.face_id, rngs, policy) if config.face_id else None
        self.fusion = Fusion(config.guidance, config.kinds, rngs, policy) if config.guidance.fusion == "attention" else None


def reference_config(unet: UNetConfig) -> UNetConfig:
    """Geometry of the reference network of a denoiser: the same without head, temporal modules, and what reads a reference."""
    without = {"temporal": None, "identity": None, "style": None, "coarse": None, "reference_attention": True}
    return dataclasses.replace(unet, head=False, **without)


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """A model's structure, which is static and hashable, and its parameters as a nested plain dict."""
    graphdef, state = nnx.split(model)
    return graphdef, nnx.to_pure_dict(state)


def merge(graphdef: nnx.GraphDef, params: Params) -> Any:
    """The inverse of `split`; cheap, and meant to be called inside the jitted function, where quantised kernels become numbers."""
    model = nnx.merge(graphdef, dequantise(params))
    multiply_in_eight_bits(model, params)
    return model


def init_params(config: AnimatorConfig, seed: int, policy: Policy = Policy()) -> Params:
    """Fresh parameters of a whole model, the same for the same seed on every host."""
    return split(Animator(config, ParamKeys(seed), policy))[1]


def abstract_model(config: AnimatorConfig, policy: Policy = Policy()) -> tuple[nnx.GraphDef, Params]:
    """What `split` would return of a model, with `jax.ShapeDtypeStruct` in place of parameters: nothing is allocated, at any size."""
    return split(nnx.eval_shape(lambda: Animator(config, ParamKeys(0), policy)))
