"""Stable Diffusion's VAE: diffusers' names, those of its older files, and those of the original single file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from champ_jax.convert.formats import Config, Format, Shapes, as_config, one_component, positive
from champ_jax.convert.mapping import Layout, Rules
from champ_jax.errors import UserError
from champ_jax.models.vae import VAE, VAEConfig

_BLOCKS: Rules = (
    (r"/(down|up)_(\d+)/", r"/\1_blocks.\2/"),
    (r"/mid/", "/mid_block/"),
    (r"/resnet_(\d+)/", r"/resnets.\1/"),
    (r"/attention/norm/", "/attention/group_norm/"),
    (r"/attention/", "/attentions.0/"),
    (r"/shortcut/", "/conv_shortcut/"),
    (r"/(down|up)sample/", r"/\1samplers.0.conv/"),
    (r"/norm_out/", "/conv_norm_out/"),
)
_OLD_ATTENTION: Rules = ((r"/to_q/", "/query/"), (r"/to_k/", "/key/"), (r"/to_v/", "/value/"), (r"/to_out/", "/proj_attn/"))
POINTWISE = r"/shortcut/|quant_conv/"
DIFFUSERS = Layout((*_BLOCKS, (r"/to_out/", "/to_out.0/")), POINTWISE)
OLD_DIFFUSERS = Layout((*_BLOCKS, *_OLD_ATTENTION), POINTWISE)
FIRST_DIFFUSERS = Layout(OLD_DIFFUSERS.rules, POINTWISE + r"|/attention/to_")
"""Files converted from the first Stable Diffusion keep its 1x1 convolutions."""


def original_rules(levels: int, prefix: str = "") -> Rules:
    """From our paths to the original names, which count the decoder's resolutions from the finest."""
    return (
        (r"/down_(\d+)/resnet_(\d+)/", r"/down.\1.block.\2/"),
        (r"/up_(\d+)/resnet_(\d+)/", lambda match: f"/up.{levels - 1 - int(match[1])}.block.{match[2]}/"),
        (r"/down_(\d+)/downsample/", r"/down.\1.downsample.conv/"),
        (r"/up_(\d+)/upsample/", lambda match: f"/up.{levels - 1 - int(match[1])}.upsample.conv/"),
        (r"/mid/resnet_(\d+)/", lambda match: f"/mid.block_{int(match[1]) + 1}/"),
        (r"/mid/attention/", "/mid.attn_1/"),
        (r"/to_(q|k|v)/", r"/\1/"),
        (r"/to_out/", "/proj_out/"),
        (r"/shortcut/", "/nin_shortcut/"),
        (r"^", prefix),
    )


def original_components(prefix: str = ""):
    """Of the original file, or the part of a single file whose names begin with `prefix`."""
    return _components(lambda own: Layout(original_rules(len(own.channels), prefix), POINTWISE + r"|/attention/to_"))


def _geometry(layout_of_one_level: Layout):
    """Reads the geometry by the names that a layout gives to the encoder."""

    def geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
        def shape(path: str) -> tuple[int, ...] | None:
            return shapes.get(layout_of_one_level.name(path))

        channels, layers = [], 0
        while found := shape(f"encoder/down_{len(channels)}/resnet_0/conv1/kernel"):
            channels.append(found[0])
        while shape(f"encoder/down_0/resnet_{layers}/conv1/kernel"):
            layers += 1
        moments = shape("quant_conv/kernel")
        if not channels or not moments:
            raise UserError("a VAE of Stable Diffusion has encoder, decoder and quant_conv, and this file has not all of them.")
        latents = moments[0] // 2
        # The factor and the norms' groups change no shape.
        scaling = config.get("scaling_factor", VAEConfig.scaling)
        if not isinstance(scaling, float | int) or not 0 < scaling < 1e6:
            raise UserError(f"config.json says scaling_factor {scaling!r}: expected a number above 0.")
        return {
            "vae": {
                "channels": channels,
                "layers": layers,
                "groups": positive(config, "norm_num_groups", 32),
                "latent_channels": latents,
                "scaling": scaling,
                "patch": 1,
            }
        }

    return geometry


def _components(layout: Layout | Callable[[VAEConfig], Layout]):
    return one_component("vae", VAE, VAEConfig, layout)


original_geometry = _geometry(Layout(original_rules(1)))


def prefixed_geometry(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """{"vae": ...} of the part of a single file whose names begin with `prefix`."""
    return original_geometry({name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}, {})


def _is_convolution(shapes: Shapes) -> bool:
    return len(shapes[f"{_ATTENTION}query.weight"]) == 4


def _diffusers_config(config: Config) -> dict[str, Any]:
    """What diffusers' AutoencoderKL.from_pretrained wants."""
    vae = as_config(VAEConfig, config["vae"])
    levels = len(vae.channels)
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": list(vae.channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": vae.layers,
        "norm_num_groups": vae.groups,
        "latent_channels": vae.latent_channels,
        "scaling_factor": vae.scaling,
    }


FIXED = {
    "act_fn": "silu", "shift_factor": None, "latents_mean": None, "latents_std": None, "mid_block_add_attention": True,
    "use_quant_conv": True, "use_post_quant_conv": True,
}  # fmt: skip
_ATTENTION = "encoder.mid_block.attentions.0."
_SIDES = ("encoder.conv_in.weight", "decoder.conv_in.weight", "encoder.down_blocks.0.resnets.0.conv1.weight", "quant_conv.weight")
SD_VAE = Format(
    "a VAE of Stable Diffusion (diffusers)",
    (*_SIDES, f"{_ATTENTION}to_q.weight"),
    _geometry(DIFFUSERS),
    _components(DIFFUSERS),
    foreign=("*.temporal_res_block.*",),
    describe=_diffusers_config,
    fixed=FIXED,
    classes=("AutoencoderKL",),
)
OLD_SD_VAE = Format(
    "a VAE of Stable Diffusion (diffusers before 0.15)",
    (*_SIDES, f"{_ATTENTION}query.weight"),
    _geometry(OLD_DIFFUSERS),
    _components(OLD_DIFFUSERS),
    when=lambda shapes: not _is_convolution(shapes),
    describe=_diffusers_config,
    fixed=FIXED,
    classes=("AutoencoderKL",),
)
FIRST_SD_VAE = Format(
    "a VAE of Stable Diffusion (diffusers before 0.15, attention as 1x1 convolutions)",
    OLD_SD_VAE.signature,
    _geometry(FIRST_DIFFUSERS),
    _components(FIRST_DIFFUSERS),
    when=_is_convolution,
    describe=_diffusers_config,
    fixed=FIXED,
    classes=("AutoencoderKL",),
)
ORIGINAL_SD_VAE = Format(
    "a VAE of Stable Diffusion (original)",
    ("encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight", "encoder.mid.attn_1.q.weight", "quant_conv.weight"),
    original_geometry,
    original_components(),
)
