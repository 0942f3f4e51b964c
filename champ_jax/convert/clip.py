"""The CLIP vision tower as transformers stores it (CLIPVisionModelWithProjection)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from champ_jax.convert.mapping import Rules, from_torch, to_torch

RULES: Rules = (
    (r"^class_token$", "vision_model/embeddings/class_embedding"),
    (r"^patch/", "vision_model/embeddings/patch_embedding/"),
    (r"^positions$", "vision_model/embeddings/position_embedding.weight"),
    (r"^norm_in/", "vision_model/pre_layrnorm/"),
    (r"^norm_out/", "vision_model/post_layernorm/"),
    (r"^projection/", "visual_projection/"),
    (r"^layer_(\d+)/", r"vision_model/encoder/layers.\1/"),
    (r"/norm([12])/", r"/layer_norm\1/"),
    (r"/to_(q|k|v|out)/", r"/self_attn.\1_proj/"),
    (r"/ff_in/", "/mlp.fc1/"),
    (r"/ff_out/", "/mlp.fc2/"),
)
"""`pre_layrnorm` is how the files spell it."""

ALLOW = {"vision_model.embeddings.position_ids": "an index buffer of old files, computed rather than stored"}


def clip_from_torch(state: Mapping[str, np.ndarray], params: Mapping, source: str = "CLIP weights") -> dict:
    """Parameters of `champ_jax.models.clip.CLIP` from a state dict of transformers.

    `params` are the model's, or their shapes. Raises UserError unless every key fits.
    """
    return from_torch(state, params, RULES, ALLOW, source=source)


def clip_to_torch(params: Mapping) -> dict[str, np.ndarray]:
    """The state dict of a tower, with the names of transformers."""
    return to_torch(params, RULES)
