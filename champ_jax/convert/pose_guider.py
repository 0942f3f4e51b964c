"""AnimateAnyone's pose guider, as in Moore's pose_guider.pth: a guidance encoder for skeletons, without attention."""

from __future__ import annotations

from typing import Any

from champ_jax.convert.formats import Component, Config, Format, Shapes
from champ_jax.convert.guidance import encoder_shapes
from champ_jax.convert.mapping import Layout
from champ_jax.errors import UserError

LAYOUT = Layout(((r"^block_(\d+)/", r"blocks.\1/"),))


def geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"guidance": ..., "kinds": ("dwpose",)}."""
    try:
        first, inputs = shapes["conv_in.weight"][:2]
        halvings = sum(name.startswith("blocks.") and name.endswith(".weight") for name in shapes) // 2
        channels = (first, *(shapes[f"blocks.{2 * i + 1}.weight"][0] for i in range(halvings)))
        out_channels = shapes["conv_out.weight"][0]
    except (KeyError, ValueError) as error:
        raise UserError(f"a pose guider needs {error}: give its whole file.") from error
    if inputs != 3:
        raise UserError(f"conv_in.weight is {shapes['conv_in.weight']}: there are only encoders for pictures, of 3 channels.")
    return {"guidance": {"patch": 1, "channels": channels, "attention": False, "out_channels": out_channels}, "kinds": ("dwpose",)}


POSE_GUIDER = Format(
    title="a pose guider of AnimateAnyone",
    signature=("conv_in.weight", "blocks.0.weight", "conv_out.weight"),
    foreign=("attentions.*", "guidance_attention.*", "controlnet_*", "*_blocks.*"),
    geometry=geometry,
    components=lambda config: {"guidance/dwpose": Component(encoder_shapes(config), LAYOUT)},
)
