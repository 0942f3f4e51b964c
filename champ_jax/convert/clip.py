"""The CLIP vision tower as transformers stores it: alone with its projection, or in a whole CLIP."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from champ_jax.convert.formats import OWN_CONFIG, Config, Format, Shapes, one_component, positive
from champ_jax.convert.mapping import Layout, Rules
from champ_jax.errors import UserError
from champ_jax.models.clip import CLIP, CLIPConfig

KEPT = {"vision_model.embeddings.position_ids": "an index buffer of old files, computed rather than stored"}
TEXT_KEPT = {
    "text_model.*": "the text half, which a model that looks at a photo has no use for",
    "text_projection.weight": "of the text half",
    "logit_scale": "scales similarities of texts and images",
}
RULES: Rules = (
    (r"^class_token$", "vision_model/embeddings/class_embedding"),
    (r"^patch/", "vision_model/embeddings/patch_embedding/"),
    (r"^positions$", "vision_model/embeddings/position_embedding.weight"),
    # As the files spell it.
    (r"^norm_in/", "vision_model/pre_layrnorm/"),
    (r"^norm_out/", "vision_model/post_layernorm/"),
    (r"^projection/", "visual_projection/"),
    (r"^layer_(\d+)/", r"vision_model/encoder/layers.\1/"),
    (r"/norm([12])/", r"/layer_norm\1/"),
    (r"/to_(q|k|v|out)/", r"/self_attn.\1_proj/"),
    (r"/ff_in/", "/mlp.fc1/"),
    (r"/ff_out/", "/mlp.fc2/"),
)
FIXED = {"layer_norm_eps": 1e-5}
CLASSES = ("clip_vision_model", "clip")
EMBEDDINGS = "vision_model.embeddings."


def geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"clip": ...}. The number of heads and the activation change no shape: without a config.json, those of the released
    towers of that width are taken."""
    own = {name: value for name, value in (config.get("vision_config") or config).items() if name != OWN_CONFIG}
    try:
        hidden, _, patch, _ = shapes[f"{EMBEDDINGS}patch_embedding.weight"]
        tokens, _ = shapes[f"{EMBEDDINGS}position_embedding.weight"]
        layers = sum(name.endswith(".layer_norm1.weight") and name.startswith("vision_model.") for name in shapes)
        intermediate = shapes["vision_model.encoder.layers.0.mlp.fc1.weight"][0]
        projection = shapes["visual_projection.weight"][0]
    except (KeyError, ValueError) as error:
        raise UserError(f"a CLIP vision tower with projection needs {error}: give the model 'WithProjection'") from error
    huge = hidden >= 1280
    return {
        "clip": {
            "hidden": hidden,
            "intermediate": intermediate,
            "layers": layers,
            # transformers leaves out what is its own default.
            "heads": positive(own, "num_attention_heads", 12 if own else 16 if huge else max(hidden // 64, 1)),
            "patch": patch,
            "image_size": math.isqrt(tokens - 1) * patch,
            "projection": projection,
            "activation": own.get("hidden_act", "gelu" if huge and not own else "quick_gelu"),
        }
    }


def _components(kept: Mapping[str, str]):
    return one_component("clip", CLIP, CLIPConfig, Layout(RULES, kept=kept))


def _transformers_config(config: Config) -> dict[str, Any]:
    """What transformers' CLIPVisionModelWithProjection.from_pretrained wants."""
    clip = CLIPConfig(**config["clip"])
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_size": clip.hidden,
        "intermediate_size": clip.intermediate,
        "num_hidden_layers": clip.layers,
        "num_attention_heads": clip.heads,
        "patch_size": clip.patch,
        "image_size": clip.image_size,
        "projection_dim": clip.projection,
        "hidden_act": clip.activation,
        "layer_norm_eps": 1e-5,
    }


VISION = Format(
    title="a CLIP vision tower with projection",
    signature=("vision_model.embeddings.class_embedding", "visual_projection.weight"),
    foreign=("text_model.*",),
    geometry=geometry,
    components=_components(KEPT),
    describe=_transformers_config,
    fixed=FIXED,
    classes=CLASSES,
)


WHOLE = Format(
    title="a whole CLIP",
    signature=("vision_model.embeddings.class_embedding", "visual_projection.weight", "text_model.*"),
    geometry=geometry,
    components=_components(KEPT | TEXT_KEPT | {"text_model.embeddings.position_ids": "an index buffer"}),
    fixed=FIXED,
    classes=CLASSES,
)
