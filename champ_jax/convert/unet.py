"""The UNet of Stable Diffusion 1.x: as diffusers names it, and as the original single file does."""

from __future__ import annotations

import re
from typing import Any

from champ_jax.convert.formats import Component, Config, Format, Shapes, as_config, positive
from champ_jax.convert.mapping import Layout, Rules, abstract
from champ_jax.errors import UserError
from champ_jax.models.unet import UNet, UNetConfig

LEVELS: Rules = ((r"^(down|up)_(\d+)/", r"\1_blocks.\2/"), (r"^mid/", "mid_block/"))
IN_TRANSFORMERS: Rules = ((r"/to_out/", "/to_out.0/"), (r"\bff/proj/", "ff.net.0.proj/"), (r"\bff/out/", "ff.net.2/"))
TRANSFORMER: Rules = (
    (r"^(.*attention(?:_\d+)?)/(norm[123]|attn[12]|ff)/", r"\1/transformer_blocks.0.\2/"),
    *IN_TRANSFORMERS,
)
DIFFUSERS = Layout(
    rules=(
        *TRANSFORMER,
        *LEVELS,
        (r"/(resnet|attention)_(\d+)/", r"/\1s.\2/"),
        (r"/time_proj/", "/time_emb_proj/"),
        (r"/shortcut/", "/conv_shortcut/"),
        (r"/(down|up)sample/", r"/\1samplers.0.conv/"),
        (r"^norm_out/", "conv_norm_out/"),
    ),
    pointwise=r"attention_\d+/proj_(in|out)/|/shortcut/",
)


def geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"unet": ...} of a UNet with diffusers' names.

    The number of heads and of norm groups change no shape: without a config.json, Stable Diffusion 1's 8 and 32 are taken.
    """
    levels = sum(bool(re.fullmatch(r"down_blocks\.\d+\.resnets\.0\.conv1\.weight", name)) for name in shapes)
    layers = sum(bool(re.fullmatch(r"down_blocks\.0\.resnets\.\d+\.conv1\.weight", name)) for name in shapes)
    found = _measure(shapes, DIFFUSERS, levels, layers)
    named = "num_attention_heads" if config.get("num_attention_heads") else "attention_head_dim"
    return {"unet": found | {"heads": positive(config, named, 8), "groups": positive(config, "norm_num_groups", 32)}}


def _measure(shapes: Shapes, layout: Layout, levels: int, layers: int) -> dict[str, Any]:
    """What the shapes say of the geometry, but for heads and groups."""

    def shape(path: str) -> tuple[int, ...]:
        name = layout.name(path)
        if name not in shapes:
            raise UserError(f"a UNet of Stable Diffusion 1.x has {name}, and this file has not.")
        return shapes[name]

    if not levels or not layers:
        raise UserError("a UNet of Stable Diffusion 1.x has down_blocks with resnets, and this file has none.")
    channels = [shape(f"down_{i}/resnet_0/conv1/kernel")[0] for i in range(levels)]
    attention = [layout.name(f"down_{i}/attention_0/norm/scale") in shapes for i in range(levels)]
    if len(shape("mid/attention_0/proj_in/kernel")) != 4:
        raise UserError("its attentions project by matrices, as in Stable Diffusion 2: only 1.x (1x1 convolutions) is supported.")
    cross = layout.name("mid/attention_0/attn2/to_k/kernel")
    hidden, width = shape("mid/attention_0/ff/proj/kernel")
    head = layout.name("conv_out/kernel")
    return {
        "in_channels": shape("conv_in/kernel")[1],
        "out_channels": shapes[head][0] if head in shapes else shape("conv_in/kernel")[1],
        "channels": channels,
        "attention_levels": attention,
        "layers": layers,
        "context_dim": shapes[cross][1] if cross in shapes else None,
        "ff_mult": hidden // (2 * width),
        "head": head in shapes,
        "positions": False,
        "head_dim": None,
    }


def unet_config(config: Config, **changes: Any) -> UNetConfig:
    """The geometry under "unet" without temporal modules."""
    if added := [name for name in ("identity", "style", "coarse") if config["unet"].get(name)]:
        raise UserError(f"this model's denoiser has {', '.join(added)}, and the format has no place for what that adds.")
    return as_config(UNetConfig, {**config["unet"], "temporal": None, "remat": False, **changes})


def components(component: str):
    """Of a file with one UNet, which is `component`: "denoiser", or "reference", which may be without head."""

    def described(config: Config) -> dict[str, Component]:
        head = config["unet"].get("head", True) and component != "reference"
        return {component: Component(abstract(UNet, unet_config(config, head=head)), DIFFUSERS)}

    return described


def _reference_geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    found = geometry(shapes, config)["unet"]
    return {"unet": {name: value for name, value in found.items() if name not in ("head", "out_channels")}}


def _diffusers_config(config: Config) -> dict[str, Any]:
    """What diffusers' UNet2DConditionModel.from_pretrained wants."""
    unet = unet_config(config)
    blocks = ["CrossAttn{}Block2D" if attention else "{}Block2D" for attention in unet.attention_levels]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64,
        "in_channels": unet.in_channels,
        "out_channels": unet.out_channels,
        "block_out_channels": list(unet.channels),
        "down_block_types": [name.format("Down") for name in blocks],
        "up_block_types": [name.format("Up") for name in reversed(blocks)],
        "layers_per_block": unet.layers,
        "attention_head_dim": unet.heads,
        "norm_num_groups": unet.groups,
        "cross_attention_dim": unet.context_dim,
    }


CLASSES = ("UNet2DConditionModel",)
FIXED = {
    "act_fn": "silu", "norm_eps": 1e-5, "flip_sin_to_cos": True, "freq_shift": 0, "center_input_sample": False,
    "resnet_time_scale_shift": "default", "resnet_skip_time_act": False, "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn", "time_embedding_type": "positional", "dual_cross_attention": False,
    "class_embed_type": None, "addition_embed_type": None, "encoder_hid_dim": None, "conv_in_kernel": 3, "conv_out_kernel": 3,
}  # fmt: skip
"""What changes a UNet's numbers and no shape."""
SIGNATURE = ("conv_in.weight", "time_embedding.linear_1.weight", "down_blocks.0.resnets.0.conv1.weight", "mid_block.attentions.0.*")
VIDEO = ("*.motion_modules.*", "*.temp_convs.*", "*.temporal_res_block.*")
DENOISER = Format(
    "a UNet of Stable Diffusion 1.x (diffusers)",
    (*SIGNATURE, "conv_out.weight"),
    geometry,
    components("denoiser"),
    foreign=VIDEO,
    describe=_diffusers_config,
    fixed=FIXED,
    classes=CLASSES,
)
REFERENCE = Format(
    "a UNet of Stable Diffusion 1.x without head (diffusers)",
    SIGNATURE,
    _reference_geometry,
    components("reference"),
    foreign=(*VIDEO, "conv_out.weight"),
    fixed=FIXED,
    classes=CLASSES,
)


def original_rules(levels: int, layers: int, attention_levels: tuple[bool, ...]) -> Rules:
    """From our paths to the names of the original single file, which numbers all blocks of a side in one row."""

    def down(match: re.Match) -> str:
        return f"input_blocks.{1 + int(match[1]) * (layers + 1) + int(match[3])}.{int(match[2] == 'attention')}/"

    def up(match: re.Match) -> str:
        return f"output_blocks.{int(match[1]) * (layers + 1) + int(match[3])}.{int(match[2] == 'attention')}/"

    def upsample(match: re.Match) -> str:
        level = int(match[1])
        return f"output_blocks.{(level + 1) * (layers + 1) - 1}.{1 + int(attention_levels[levels - 1 - level])}.conv/"

    return (
        *TRANSFORMER,
        (r"(resnet_\d+)/norm1/", r"\1/in_layers.0/"),
        (r"/conv1/", "/in_layers.2/"),
        (r"/time_proj/", "/emb_layers.1/"),
        (r"(resnet_\d+)/norm2/", r"\1/out_layers.0/"),
        (r"/conv2/", "/out_layers.3/"),
        (r"/shortcut/", "/skip_connection/"),
        (r"^down_(\d+)/(resnet|attention)_(\d+)/", down),
        (r"^down_(\d+)/downsample/", lambda match: f"input_blocks.{(int(match[1]) + 1) * (layers + 1)}.0.op/"),
        (r"^up_(\d+)/(resnet|attention)_(\d+)/", up),
        (r"^up_(\d+)/upsample/", upsample),
        (r"^mid/resnet_(\d+)/", lambda match: f"middle_block.{2 * int(match[1])}/"),
        (r"^mid/attention_0/", "middle_block.1/"),
        (r"^conv_in/", "input_blocks.0.0/"),
        (r"^time_embedding/linear_1/", "time_embed.0/"),
        (r"^time_embedding/linear_2/", "time_embed.2/"),
        (r"^norm_out/", "out.0/"),
        (r"^conv_out/", "out.2/"),
        (r"^", "model.diffusion_model/"),
    )


def original_layout(config: Config) -> Layout:
    """The original file's layout of a UNet of this geometry."""
    unet = unet_config(config)
    return Layout(original_rules(len(unet.channels), unet.layers, unet.attention_levels), DIFFUSERS.pointwise)


def original_geometry(shapes: Shapes) -> dict[str, Any]:
    """{"unet": ...} of the original single file, whose heads and groups are Stable Diffusion 1's: 8 and 32."""
    first = "model.diffusion_model.input_blocks."
    numbers = (name.removeprefix(first).split(".")[0] for name in shapes if name.startswith(first))
    blocks = {int(number) for number in numbers if number.isdecimal()}
    halvings = sorted(number for number in blocks if f"{first}{number}.0.op.weight" in shapes)
    layers = (halvings[0] if halvings else len(blocks)) - 1
    levels = len(halvings) + 1
    attention = tuple(f"{first}{1 + i * (layers + 1)}.1.norm.weight" in shapes for i in range(levels))
    layout = Layout(original_rules(levels, layers, attention))
    return {"unet": _measure(shapes, layout, levels, layers) | {"heads": 8, "groups": 32}}
