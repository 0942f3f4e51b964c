"""ModelScope's text-to-video UNet as diffusers stores it (UNet3DConditionModel): our UNet with temporal modules of its kind."""

from __future__ import annotations

from typing import Any

from champ_jax.convert.formats import Component, Config, Format, Shapes, as_config
from champ_jax.convert.mapping import Layout, Rules, abstract
from champ_jax.convert.motion import split_temporal
from champ_jax.convert.unet import DIFFUSERS, IN_TRANSFORMERS, LEVELS
from champ_jax.errors import UserError
from champ_jax.models.temporal import TemporalConfig
from champ_jax.models.unet import UNet, UNetConfig

TEMPORAL_RULES: Rules = (
    *LEVELS,
    (r"(_conv_\d+)/norm([1-4])/", r"\1/conv\2.0/"),
    (r"(_conv_\d+)/conv1/", r"\1/conv1.2/"),
    # From the second on there is a dropout before the convolution.
    (r"(_conv_\d+)/conv([234])/", r"\1/conv\2.3/"),
    (r"/temporal_conv_(\d+)/", r"/temp_convs.\1/"),
    (r"(temporal_(?:first|\d+))/(norm[123]|attn[12]|ff)/", r"\1/transformer_blocks.0.\2/"),
    (r"^temporal_first/", "transformer_in/"),
    (r"/temporal_(\d+)/", r"/temp_attentions.\1/"),
    *IN_TRANSFORMERS,
)
GROUPS, FIRST_HEADS = 32, 8


def geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"unet": ...} with its temporal modules. The norms' groups change no shape: config.json's, or ModelScope's 32."""
    levels = len({name.split(".")[1] for name in shapes if name.startswith("down_blocks.")})
    layers = len({name.split(".")[3] for name in shapes if name.startswith("down_blocks.0.resnets.")})
    groups = config.get("norm_num_groups") or GROUPS
    try:
        context_dim = shapes["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"][1]
        head_dim = shapes["transformer_in.proj_in.weight"][0] // FIRST_HEADS
        channels = tuple(shapes[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels))
        in_channels, out_channels = shapes["conv_in.weight"][1], shapes["conv_out.weight"][0]
    except KeyError as error:
        raise UserError(f"a text-to-video UNet of ModelScope needs {error}: give its whole file.") from error
    temporal = {"kind": "modelscope", "heads": FIRST_HEADS, "head_dim": head_dim, "groups": groups}
    unet = {
        "channels": channels,
        "attention_levels": tuple(_has(shapes, f"down_blocks.{i}.attentions.") for i in range(levels)),
        "layers": layers, "head_dim": head_dim, "groups": groups, "in_channels": in_channels, "out_channels": out_channels,
        "context_dim": context_dim, "temporal": temporal,
    }  # fmt: skip
    return {"unet": unet}


def _has(shapes: Shapes, start: str) -> bool:
    return any(name.startswith(start) for name in shapes)


def _components(config: Config) -> dict[str, Component]:
    own = as_config(UNetConfig, {**config["unet"], "temporal": TemporalConfig(**config["unet"]["temporal"])})
    spatial, temporal = split_temporal(abstract(UNet, own))
    return {
        # Unlike Stable Diffusion 1.5's, its projections around attention are matrices.
        "denoiser": Component(spatial, Layout(DIFFUSERS.rules, r"/shortcut/")),
        "denoiser/": Component(temporal, Layout(TEMPORAL_RULES)),
    }


MODELSCOPE = Format(
    title="a text-to-video UNet of ModelScope",
    signature=("transformer_in.proj_in.weight", "mid_block.temp_convs.*", "mid_block.temp_attentions.*"),
    geometry=geometry,
    components=_components,
)
