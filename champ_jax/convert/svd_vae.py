"""The autoencoder of Stable Video Diffusion as diffusers stores it."""

from __future__ import annotations

from typing import Any

from champ_jax.convert.formats import Config, Format, Shapes, one_component
from champ_jax.convert.mapping import Layout, Rules
from champ_jax.convert.vae import DIFFUSERS
from champ_jax.errors import UserError
from champ_jax.models.temporal_vae import TemporalVAE, TemporalVAEConfig

RULES: Rules = (
    *DIFFUSERS.rules,
    (r"/(spatial|temporal)/", r"/\1_res_block/"),
    (r"/mix$", "/time_mixer.mix_factor"),
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


def _layout(own: TemporalVAEConfig) -> Layout:
    kept = {f"decoder.mid_block.resnets.{i}.*": NEVER_CALLED for i in range(2, own.layers)}
    if own.layers == 1:
        kept["decoder.mid_block.attentions.*"] = NEVER_CALLED
    return Layout(RULES, r"/shortcut/|^quant_conv/", kept)


SVD_VAE = Format(
    title="the autoencoder of Stable Video Diffusion",
    signature=("encoder.conv_in.weight", "decoder.time_conv_out.weight", "decoder.up_blocks.*.time_mixer.mix_factor"),
    geometry=geometry,
    components=one_component("temporal_vae", TemporalVAE, TemporalVAEConfig, _layout),
)
