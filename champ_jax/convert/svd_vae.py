"""The autoencoder of Stable Video Diffusion as diffusers stores it."""

from __future__ import annotations

from typing import Any

from champ_jax.convert.formats import Component, Config, Format, Shapes
from champ_jax.convert.mapping import Layout, Rules, abstract
from champ_jax.errors import UserError
from champ_jax.models.temporal_vae import TemporalVAE, TemporalVAEConfig

RULES: Rules = (
    (r"/(down|up)_(\d+)/", r"/\1_blocks.\2/"),
    (r"/mid/", "/mid_block/"),
    (r"/resnet_(\d+)/", r"/resnets.\1/"),
    (r"/(spatial|temporal)/", r"/\1_res_block/"),
    (r"/mix$", "/time_mixer.mix_factor"),
    (r"/attention/norm/", "/attention/group_norm/"),
    (r"/attention/", "/attentions.0/"),
    (r"/to_out/", "/to_out.0/"),
    (r"/shortcut/", "/conv_shortcut/"),
    (r"/(down|up)sample/", r"/\1samplers.0.conv/"),
    (r"/norm_out/", "/conv_norm_out/"),
    (r"/conv_frames/", "/time_conv_out/"),
)
NEVER_CALLED = "of the decoder's middle, which calls two blocks and, only between them, the attention"


def geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"temporal_vae": ...}; the scaling is config.json's, or Stable Video Diffusion's."""
    levels = len({name.split(".")[2] for name in shapes if name.startswith("encoder.down_blocks.")})
    layers = len({name.split(".")[4] for name in shapes if name.startswith("encoder.down_blocks.0.resnets.")})
    try:
        channels = tuple(shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels))
        latent_channels = shapes["decoder.conv_in.weight"][1]
    except KeyError as error:
        raise UserError(f"an autoencoder of Stable Video Diffusion needs {error}: give its whole file.") from error
    scaling = config.get("scaling_factor", TemporalVAEConfig.scaling)
    return {"temporal_vae": {"channels": channels, "layers": layers, "groups": 32, "latent_channels": latent_channels, "scaling": scaling}}


def _components(config: Config) -> dict[str, Component]:
    own = TemporalVAEConfig(**{**config["temporal_vae"], "channels": tuple(config["temporal_vae"]["channels"])})
    kept = {f"decoder.mid_block.resnets.{i}.*": NEVER_CALLED for i in range(2, own.layers)}
    if own.layers == 1:
        kept["decoder.mid_block.attentions.*"] = NEVER_CALLED
    return {"temporal_vae": Component(abstract(TemporalVAE, own), Layout(RULES, r"/shortcut/|^quant_conv/", kept))}


SVD_VAE = Format(
    title="the autoencoder of Stable Video Diffusion",
    signature=("encoder.conv_in.weight", "decoder.time_conv_out.weight", "decoder.up_blocks.*.time_mixer.mix_factor"),
    geometry=geometry,
    components=_components,
)
