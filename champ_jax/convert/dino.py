"""DINO's towers, as facebookresearch stores them: embeddings for the consistency of a subject."""

from __future__ import annotations

import math
import re
from typing import Any

from champ_jax.convert.formats import Component, Config, Format, Shapes
from champ_jax.convert.mapping import Layout, abstract
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


def geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"dino": ...}, all of it from the shapes."""
    try:
        hidden, _, patch, _ = shapes["patch_embed.proj.weight"]
        _, tokens, _ = shapes["pos_embed"]
        layers = sum(bool(re.fullmatch(r"blocks\.\d+\.norm1\.weight", name)) for name in shapes)
        intermediate = shapes["blocks.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError) as error:
        raise UserError(f"a tower of DINO needs {error}") from error
    size = math.isqrt(tokens - 1) * patch
    return {"dino": {"hidden": hidden, "intermediate": intermediate, "layers": layers, "patch": patch, "image_size": size}}


DINO = Format(
    title="a vision transformer of DINO",
    signature=("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.weight"),
    # DINOv2's have layer scales and registers.
    foreign=("blocks.0.ls1.gamma", "register_tokens"),
    geometry=geometry,
    components=lambda config: {"dino": Component(abstract(DINOModel, DINOConfig(**config["dino"])), LAYOUT)},
)
