"""ArcFace's weights as insightface trains them (a PyTorch state dict) and as it releases them (ONNX)."""

from __future__ import annotations

import math
import re
from typing import Any

from champ_jax.convert.formats import Config, Format, Shapes, one_component
from champ_jax.convert.mapping import COUNTERS, STATISTICS, Layout
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
        *STATISTICS,
        (r"/slope$", "/weight"),
    ),
    kept=COUNTERS,
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


ARCFACE = Format(
    title="an IResNet of ArcFace",
    signature=("conv1.weight", "prelu.weight", "layer1.0.prelu.weight", "fc.weight", "features.running_mean"),
    geometry=geometry,
    components=one_component("arcface", ArcFace, ArcFaceConfig, LAYOUT),
)
