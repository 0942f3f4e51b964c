"""CHAMP's own files: reference UNet, denoising UNet, motion module and guidance encoders.

The two UNets have the names of diffusers' Stable Diffusion 1.5, the motion module those of AnimateDiff.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from champ_jax.convert.mapping import Rules, from_torch, to_torch

_TRANSFORMER: Rules = (
    (r"^(.*attention(?:_\d+)?)/(norm[123]|attn[12]|ff)/", r"\1/transformer_blocks.0.\2/"),
    (r"/to_out/", "/to_out.0/"),
    (r"\bff/proj/", "ff.net.0.proj/"),
    (r"\bff/out/", "ff.net.2/"),
)
UNET_RULES: Rules = (
    *_TRANSFORMER,
    (r"^(down|up)_(\d+)/", r"\1_blocks.\2/"),
    (r"^mid/", "mid_block/"),
    (r"/(resnet|attention)_(\d+)/", r"/\1s.\2/"),
    (r"/time_proj/", "/time_emb_proj/"),
    (r"/shortcut/", "/conv_shortcut/"),
    (r"/(down|up)sample/", r"/\1samplers.0.conv/"),
    (r"^norm_out/", "conv_norm_out/"),
)
TEMPORAL_RULES: Rules = (
    (r"^(down|up)_(\d+)/", r"\1_blocks.\2/"),
    (r"^mid/", "mid_block/"),
    (r"/temporal_(\d+)/", r"/motion_modules.\1.temporal_transformer/"),
    (r"/block_(\d+)/", r"/transformer_blocks.\1/"),
    (r"/attn_(\d+)/", r"/attention_blocks.\1/"),
    (r"/norm_(\d+)/", r"/norms.\1/"),
    (r"/norm_ff/", "/ff_norm/"),
    *_TRANSFORMER[1:],
)
GUIDANCE_RULES: Rules = (
    *_TRANSFORMER,
    (r"^block_(\d+)/", r"blocks.\1/"),
    (r"^attention/", "attentions.5/"),
)
"""The encoder's one attention is number 5 of six in CHAMP's class, behind its six blocks."""

UNET_POINTWISE = r"attention_\d+/proj_(in|out)/|/shortcut/"
GUIDANCE_POINTWISE = r"^attention/proj_(in|out)/"

TEMPORAL_ALLOW = {"*.pos_encoder.pe": "sinusoidal positions, computed rather than stored"}
GUIDANCE_ALLOW = {
    **{f"attentions.{i}.*": "never called by CHAMP: only the last attention is" for i in range(5)},
    "guidance_attention.*": "never called by CHAMP",
}


def split_temporal(params: Mapping) -> tuple[dict, dict]:
    """A UNet's parameters without and with only its temporal modules: two nested dicts."""
    flat = flatten_dict(params, sep="/")
    spatial = {path: leaf for path, leaf in flat.items() if "/temporal_" not in path}
    temporal = {path: leaf for path, leaf in flat.items() if "/temporal_" in path}
    return unflatten_dict(spatial, sep="/"), unflatten_dict(temporal, sep="/")


def join_temporal(spatial: Mapping, temporal: Mapping) -> dict:
    """The inverse of `split_temporal`."""
    return unflatten_dict({**flatten_dict(spatial, sep="/"), **flatten_dict(temporal, sep="/")}, sep="/")


def unet_from_torch(state: Mapping[str, np.ndarray], params: Mapping, source: str = "UNet weights") -> dict:
    """Parameters of a UNet without temporal modules (see `split_temporal`) from reference_unet or denoising_unet.

    `params` are the model's, or their shapes. Raises UserError unless every key fits.
    """
    return from_torch(state, params, UNET_RULES, pointwise=UNET_POINTWISE, source=source)


def temporal_from_torch(state: Mapping[str, np.ndarray], params: Mapping, source: str = "motion module") -> dict:
    """Parameters of a denoiser's temporal modules from motion_module or AnimateDiff's mm_sd_v15_v2 in its plain form."""
    return from_torch(state, params, TEMPORAL_RULES, TEMPORAL_ALLOW, source=source)


def guidance_from_torch(state: Mapping[str, np.ndarray], params: Mapping, source: str = "guidance encoder") -> dict:
    """Parameters of one guidance encoder from guidance_encoder_KIND; its never used attentions are left out."""
    return from_torch(state, params, GUIDANCE_RULES, GUIDANCE_ALLOW, GUIDANCE_POINTWISE, source)


def unet_to_torch(params: Mapping) -> dict[str, np.ndarray]:
    """The state dict of a UNet without temporal modules, with the names of Stable Diffusion 1.5."""
    return to_torch(params, UNET_RULES, UNET_POINTWISE)


def temporal_to_torch(params: Mapping) -> dict[str, np.ndarray]:
    """The state dict of a denoiser's temporal modules, with AnimateDiff's names, without position buffers."""
    return to_torch(params, TEMPORAL_RULES)


def guidance_to_torch(params: Mapping) -> dict[str, np.ndarray]:
    """The live part of the state dict of a guidance encoder."""
    return to_torch(params, GUIDANCE_RULES, GUIDANCE_POINTWISE)
