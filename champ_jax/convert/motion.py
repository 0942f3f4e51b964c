"""Temporal modules as AnimateDiff and CHAMP store them, and as diffusers' MotionAdapter does."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from champ_jax.checkpoint.tensors import LazyArray
from champ_jax.convert.formats import Component, Config, Format, Lacking, Shapes, positive
from champ_jax.convert.mapping import Layout, Rules, abstract
from champ_jax.convert.unet import IN_TRANSFORMERS, LEVELS
from champ_jax.errors import UserError
from champ_jax.models.temporal import TemporalConfig
from champ_jax.models.unet import UNet, UNetConfig
from champ_jax.trees import flatten, unflatten

_COMMON: Rules = (*LEVELS, (r"/block_(\d+)/", r"/transformer_blocks.\1/"), *IN_TRANSFORMERS)
ANIMATEDIFF_LAYOUT = Layout(
    rules=(
        *_COMMON,
        (r"/temporal_(\d+)/", r"/motion_modules.\1.temporal_transformer/"),
        (r"/attn_(\d+)/", r"/attention_blocks.\1/"),
        (r"/norm_(\d+)/", r"/norms.\1/"),
        (r"/norm_ff/", "/ff_norm/"),
    ),
    kept={"*.pos_encoder.pe": "sinusoidal positions, computed rather than stored"},
)
ADAPTER_LAYOUT = Layout(
    rules=(
        *_COMMON,
        (r"/temporal_(\d+)/", r"/motion_modules.\1/"),
        (r"/attn_(\d+)/", lambda match: f"/attn{int(match[1]) + 1}/"),
        (r"/norm_(\d+)/", lambda match: f"/norm{int(match[1]) + 1}/"),
        (r"/norm_ff/", "/norm3/"),
    ),
    kept={"*.pos_embed.pe": "sinusoidal positions, computed rather than stored"},
)


def _geometry(layout: Layout, positions: str):
    """Reads {"unet": {"channels", "layers", "temporal"}} by the names of a layout; positions: the ending of their name."""

    def geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
        def shape(path: str) -> tuple[int, ...] | None:
            return shapes.get(layout.name(path))

        def count(path: str) -> int:
            """How many there are of `path`, in which a star stands for their number."""
            number = 0
            while shape(path.replace("*", str(number))):
                number += 1
            return number

        levels, layers = count("down_*/temporal_0/norm/scale"), count("down_0/temporal_*/norm/scale")
        if not levels:
            raise UserError("motion modules have down_blocks.0.motion_modules.0, and this file has not.")
        first = "down_0/temporal_0/block_0"
        hidden, width = shape(f"{first}/ff/proj/kernel") or (0, 1)
        lengths = {found[-2] for name, found in shapes.items() if name.endswith(positions)}
        if len(lengths) > 1:
            raise UserError(f"motion modules with positions of several lengths: {sorted(lengths)}.")
        temporal = {
            "heads": positive(config, "motion_num_attention_heads", 8),
            "groups": positive(config, "motion_norm_num_groups", 32),
            "max_frames": lengths.pop() if lengths else positive(config, "motion_max_seq_length", TemporalConfig.max_frames),
            "blocks": count("down_0/temporal_0/block_*/norm_ff/scale"),
            "attentions": count(f"{first}/attn_*/to_q/kernel"),
            "ff_mult": hidden // (2 * width),
            "mid": shape("mid/temporal_0/norm/scale") is not None,
            "clip_norm": False,
        }
        channels = [shape(f"down_{i}/temporal_0/norm/scale")[0] for i in range(levels)]
        return {"unet": {"channels": channels, "layers": layers, "temporal": temporal}}

    return geometry


def temporal_shapes(config: Config) -> dict[str, Any]:
    """Shapes of the temporal modules alone of the denoiser that `config["unet"]` describes, as a nested dict."""
    temporal = TemporalConfig(**config["unet"]["temporal"])
    channels = tuple(config["unet"]["channels"])
    # Attention and head have no part in this; heads and groups must only divide the widths.
    unet = UNetConfig(
        channels=channels, attention_levels=(False,) * len(channels), layers=config["unet"].get("layers", UNetConfig.layers),
        heads=temporal.heads, groups=temporal.groups, temporal=temporal,
    )  # fmt: skip
    return split_temporal(abstract(UNet, unet))[1]


def split_temporal(params: Any) -> tuple[dict, dict]:
    """A UNet's parameters without and with only its temporal modules: two nested dicts."""
    flat = flatten(params)
    spatial = {path: leaf for path, leaf in flat.items() if "temporal_" not in path}
    temporal = {path: leaf for path, leaf in flat.items() if "temporal_" in path}
    return unflatten(spatial), unflatten(temporal)


def components(component: str, layout: Layout = ANIMATEDIFF_LAYOUT):
    """Of a file with one set of temporal modules, which are or go into `component`."""

    def described(config: Config) -> dict[str, Component]:
        if not config.get("unet", {}).get("temporal"):
            raise Lacking("this model has no temporal modules: they are trained in stage C.")
        if (kind := config["unet"]["temporal"].get("kind", "animatediff")) != "animatediff":
            raise UserError(f"this model's temporal modules are of the kind {kind}, and the format holds AnimateDiff's.")
        return {component: Component(temporal_shapes(config), layout)}

    return described


def positions(frames: int, width: int) -> np.ndarray:
    """AnimateDiff's sinusoids, float32 [1,F,D]."""
    angles = np.arange(frames)[:, None] * np.exp(np.arange(0, width, 2) * (-np.log(10000.0) / width))
    return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(1, frames, width).astype(np.float32)


def _positions_of(layout: Layout, name: str):
    """The positions that a file of this layout holds at every attention (or, with `name` "pos_embed.pe", at every block)."""

    def absent(config: Config) -> dict[str, LazyArray]:
        frames, found = config["unet"]["temporal"]["max_frames"], {}
        for path, leaf in flatten(temporal_shapes(config)).items():
            if not re.search(r"/attn_\d+/to_q/kernel$", path):
                continue
            owner = layout.name(path).removesuffix(".to_q.weight")
            owner = owner.rpartition(".")[0] if name == "pos_embed.pe" else owner
            width = leaf.shape[0]
            make = lambda width=width: positions(frames, width)  # noqa: E731
            found[f"{owner}.{name}"] = LazyArray((1, frames, width), np.dtype(np.float32), make)
        return found

    return absent


def _adapter_config(config: Config) -> dict[str, Any]:
    """What diffusers' MotionAdapter.from_pretrained wants."""
    unet, temporal = config["unet"], config["unet"]["temporal"]
    return {
        "_class_name": "MotionAdapter",
        "block_out_channels": list(unet["channels"]),
        "motion_layers_per_block": unet.get("layers", UNetConfig.layers),
        "motion_mid_block_layers_per_block": 1,
        "motion_num_attention_heads": temporal["heads"],
        "motion_norm_num_groups": temporal["groups"],
        "motion_max_seq_length": temporal["max_frames"],
        "motion_transformer_layers_per_block": temporal["blocks"],
        "motion_transformer_layers_per_mid_block": temporal["blocks"],
        "use_motion_mid_block": temporal.get("mid", True),
    }


def animatediff(component: str = "motion") -> Format:
    """AnimateDiff's own format, which is also that of CHAMP's and AnimateAnyone's motion_module.pth."""
    return Format(
        "motion modules (AnimateDiff)",
        ("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight",),
        _geometry(ANIMATEDIFF_LAYOUT, ".pe"),
        components(component),
        absent=_positions_of(ANIMATEDIFF_LAYOUT, "pos_encoder.pe"),
        foreign=("conv_in.weight", "*lora*"),
    )


ANIMATEDIFF = animatediff()
MOTION_ADAPTER = Format(
    "motion modules (diffusers' MotionAdapter)",
    ("down_blocks.0.motion_modules.0.norm.weight", "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q.weight"),
    _geometry(ADAPTER_LAYOUT, ".pe"),
    components("motion", ADAPTER_LAYOUT),
    absent=_positions_of(ADAPTER_LAYOUT, "pos_embed.pe"),
    foreign=("*lora*", "conv_in.weight"),
    describe=_adapter_config,
    classes=("MotionAdapter",),
)
