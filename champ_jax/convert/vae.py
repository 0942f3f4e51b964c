"""Stable Diffusion's VAE as diffusers stores it, with the attention names of old files or of new ones."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from champ_jax.convert.mapping import Rules, from_torch, to_torch

RULES: Rules = (
    (r"/(down|up)_(\d+)/", r"/\1_blocks.\2/"),
    (r"/mid/", "/mid_block/"),
    (r"/resnet_(\d+)/", r"/resnets.\1/"),
    (r"/attention/norm/", "/attention/group_norm/"),
    (r"/attention/", "/attentions.0/"),
    (r"/to_out/", "/to_out.0/"),
    (r"/shortcut/", "/conv_shortcut/"),
    (r"/(down|up)sample/", r"/\1samplers.0.conv/"),
    (r"/norm_out/", "/conv_norm_out/"),
)
POINTWISE = r"/shortcut/|quant_conv/"
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
ATTENTION_LAYER = re.compile(r"(.*attentions\.\d+\.)(query|key|value|proj_attn|to_q|to_k|to_v|to_out\.0)(\.weight|\.bias)$")


def modern_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict with the attention names that diffusers uses since 0.15; sd-vae-ft-mse's own files are older.

    Attention layers that are 1x1 convolutions, as in files converted from the first Stable Diffusion, become matrices.
    """
    modern = {}
    for name, array in state.items():
        layer = ATTENTION_LAYER.match(name)
        if layer:
            name = layer[1] + OLD_ATTENTION.get(layer[2], layer[2]) + layer[3]
            array = array.reshape(array.shape[:2]) if array.ndim == 4 else array
        modern[name] = array
    return modern


def vae_from_torch(state: Mapping[str, np.ndarray], params: Mapping, source: str = "VAE weights") -> dict:
    """Parameters of `champ_jax.models.vae.VAE` from a state dict of diffusers' AutoencoderKL.

    `params` are the model's, or their shapes. Raises UserError unless every key fits.
    """
    return from_torch(modern_names(state), params, RULES, pointwise=POINTWISE, source=source)


def vae_to_torch(params: Mapping) -> dict[str, np.ndarray]:
    """The state dict of a VAE, with the new attention names."""
    return to_torch(params, RULES, POINTWISE)
