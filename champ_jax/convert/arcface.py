"""ArcFace's weights as insightface trains them (a PyTorch state dict) and as it releases them (ONNX)."""

from __future__ import annotations

import math
import re
from typing import Any

from champ_jax.convert.formats import Component, Config, Format, Shapes
from champ_jax.convert.mapping import Layout, abstract
from champ_jax.errors import UserError
from champ_jax.models.arcface import ArcFace, ArcFaceConfig

LAYOUT = Layout(
    rules=(
        (r"^(conv|norm)_in/", r"\g<1>1/"),
        (r"^prelu_in/", "prelu/"),
        (r"^stage_(\d+)/block_(\d+)/", r"layer\1.\2/"),
        (r"/shortcut/", "/downsample.0/"),
        (r"/shortcut_norm/", "/downsample.1/"),
        (r"^norm_out/", "bn2/"),
        (r"\bnorm([123])/", r"bn\1/"),
        (r"/(mean|var)$", r"/running_\1"),
        (r"/slope$", "/weight"),
    ),
    kept={"*num_batches_tracked": "counts training steps"},
)


def geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"arcface": ...}, all of it from the shapes."""
    try:
        layers = [sum(bool(re.fullmatch(rf"layer{i}\.\d+\.conv2\.weight", name)) for name in shapes) for i in (1, 2, 3, 4)]
        widths = [shapes["conv1.weight"][0], *(shapes[f"layer{i}.0.conv2.weight"][0] for i in (1, 2, 3, 4))]
        embedding, cells = shapes["fc.weight"]
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"an IResNet of ArcFace needs {error}, a convolution or matrix: this file has no such network") from error
    side = math.isqrt(cells // max(widths[-1], 1))
    if not side or side * side * widths[-1] != cells:
        raise UserError(f"fc.weight reads {cells} values, which is no square of {widths[-1]} channels: not an IResNet of ArcFace.")
    folded = "conv1.bias" in shapes
    return {"arcface": {"layers": layers, "widths": widths, "embedding": embedding, "image_size": 16 * side, "folded": folded}}


def arcface_config(config: Config) -> ArcFaceConfig:
    """The geometry as `geometry` gives it, with lists for tuples."""
    return ArcFaceConfig(**{**config, "layers": tuple(config["layers"]), "widths": tuple(config["widths"])})


ARCFACE = Format(
    title="an IResNet of ArcFace",
    signature=("conv1.weight", "prelu.weight", "layer1.0.prelu.weight", "fc.weight", "features.running_mean"),
    geometry=geometry,
    components=lambda config: {"arcface": Component(abstract(ArcFace, arcface_config(config["arcface"])), LAYOUT)},
)
