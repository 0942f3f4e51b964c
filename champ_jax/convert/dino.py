"""DINO's towers, as facebookresearch or transformers stores them: embeddings for the consistency of a subject."""

from __future__ import annotations

import math
import re
from typing import Any

from champ_jax.convert.formats import OWN_CONFIG, Config, Format, Shapes, one_component
from champ_jax.convert.mapping import Layout
from champ_jax.errors import UserError
from champ_jax.models.dino import DINO as DINOModel
from champ_jax.models.dino import DINOConfig

LAYOUT = Layout(
    rules=(
        (r"^class_token$", "cls_token"),
        (r"^positions$", "pos_embed"),
        (r"^patch/", "patch_embed/proj/"),
        (r"^norm_out/", "norm/"),
        (r"^layer_(\d+)/", r"blocks.\1/"),
        (r"/to_qkv/", "/attn.qkv/"),
        (r"/to_out/", "/attn.proj/"),
        (r"/ff_in/", "/mlp.fc1/"),
        (r"/ff_out/", "/mlp.fc2/"),
    ),
    kept={"head.*": "the head that training compared, which an embedding has no use for"},
)
VIT_LAYOUT = Layout(
    rules=(
        (r"^class_token$", "embeddings/cls_token"),
        (r"^positions$", "embeddings/position_embeddings"),
        (r"^patch/", "embeddings/patch_embeddings/projection/"),
        (r"^norm_out/", "layernorm/"),
        (r"^layer_(\d+)/", r"encoder/layer.\1/"),
        (r"/norm1/", "/layernorm_before/"),
        (r"/norm2/", "/layernorm_after/"),
        (r"/to_q/", "/attention.attention.query/"),
        (r"/to_k/", "/attention.attention.key/"),
        (r"/to_v/", "/attention.attention.value/"),
        (r"/to_out/", "/attention.output.dense/"),
        (r"/ff_in/", "/intermediate.dense/"),
        (r"/ff_out/", "/output.dense/"),
    ),
    kept={"pooler.*": "a layer behind the class token that DINO has not: transformers adds it with random weights"},
)


def geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"dino": ...}, all of it from the shapes."""
    return {"dino": _tower(shapes, LAYOUT)}


def vit_geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"dino": ...}. The epsilon is config.json's, and without one that of DINO's training."""
    own = {name: value for name, value in config.items() if name != OWN_CONFIG}
    tower = _tower(shapes, VIT_LAYOUT)
    heads, epsilon = own.get("num_attention_heads"), own.get("layer_norm_eps", 1e-12 if own else 1e-6)
    if heads is not None and heads * 64 != tower["hidden"]:
        raise UserError(f"config.json says num_attention_heads {heads!r}: DINO's heads are 64 wide, of {tower['hidden']} channels.")
    if type(epsilon) not in (int, float) or not 0 < epsilon < 1:
        raise UserError(f"config.json says layer_norm_eps {epsilon!r}: expected a small number above 0.")
    return {"dino": {**tower, "epsilon": float(epsilon), "fused": False}}


def _tower(shapes: Shapes, layout: Layout) -> dict[str, Any]:
    """What the shapes say of a tower whose names are the layout's."""
    norm = re.escape(layout.name("layer_0/norm1/scale")).replace("0", r"\d+")
    try:
        hidden, _, patch, _ = shapes[layout.name("patch/kernel")]
        _, tokens, _ = shapes[layout.name("positions")]
        layers = sum(bool(re.fullmatch(norm, name)) for name in shapes)
        intermediate = shapes[layout.name("layer_0/ff_in/kernel")][0]
    except (KeyError, ValueError) as error:
        raise UserError(f"a tower of DINO needs {error}") from error
    size = math.isqrt(tokens - 1) * patch
    return {"hidden": hidden, "intermediate": intermediate, "layers": layers, "patch": patch, "image_size": size}


DINO = Format(
    title="a vision transformer of DINO",
    signature=("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.weight"),
    # DINOv2's have layer scales and registers.
    foreign=("blocks.0.ls1.gamma", "register_tokens"),
    geometry=geometry,
    components=one_component("dino", DINOModel, DINOConfig, LAYOUT),
)


VIT = Format(
    title="a vision transformer of DINO, transformers",
    signature=("embeddings.cls_token", "encoder.layer.0.attention.attention.query.weight", "layernorm.weight"),
    # DINOv2's, of transformers.
    foreign=("encoder.layer.0.layer_scale1.lambda1", "embeddings.register_tokens"),
    geometry=vit_geometry,
    components=one_component("dino", DINOModel, DINOConfig, VIT_LAYOUT),
    fixed={"hidden_act": "gelu", "qkv_bias": True},
    classes=("vit",),
)
