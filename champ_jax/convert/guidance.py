"""CHAMP's guidance encoders, one file a kind of map."""

from __future__ import annotations

from typing import Any

import numpy as np

from champ_jax.checkpoint.tensors import LazyArray
from champ_jax.convert.formats import Component, Config, Format, Shapes
from champ_jax.convert.mapping import Layout, abstract, their_shapes
from champ_jax.convert.unet import TRANSFORMER
from champ_jax.errors import UserError
from champ_jax.models.guidance import GuidanceConfig, GuidanceEncoder
from champ_jax.nn.blocks import SpatialTransformer
from champ_jax.nn.policy import Policy

LAYOUT = Layout(
    rules=(
        *TRANSFORMER,
        (r"^block_(\d+)/", r"blocks.\1/"),
        # The encoder's one attention is number 5 of six in CHAMP's class, behind its six blocks.
        (r"^attention/", "attentions.5/"),
    ),
    pointwise=r"^attention/proj_(in|out)/",
    kept={
        **{f"attentions.{i}.*": "never called by CHAMP: only the last attention is" for i in range(5)},
        "guidance_attention.*": "never called by CHAMP",
    },
)


def geometry(kind: str):
    """Reads {"guidance": ..., "kinds": (kind,)}; heads and norm groups, which change no shape, are CHAMP's 8 and 32."""

    def read(shapes: Shapes, config: Config) -> dict[str, Any]:
        names = [name for name in ("conv_in.weight", "conv_out.weight", "attentions.5.norm.weight") if name not in shapes]
        if names:
            raise UserError(f"a guidance encoder of CHAMP has {names[0]}, and this file has not.")
        channels = [shapes["conv_in.weight"][0]]
        while found := shapes.get(f"blocks.{2 * len(channels) - 1}.weight"):
            channels.append(found[0])
        hidden, width = shapes.get("attentions.5.transformer_blocks.0.ff.net.0.proj.weight", (0, 1))
        out = shapes["conv_out.weight"][0]
        encoder = {"channels": channels, "out_channels": out, "heads": 8, "groups": 32, "ff_mult": hidden // (2 * width)}
        return {"guidance": encoder, "kinds": (kind,)}

    return read


def encoder_shapes(config: Config) -> dict[str, Any]:
    """Shapes of one encoder's parameters, as a nested dict."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in config["guidance"].items()}
    return abstract(GuidanceEncoder, GuidanceConfig(**values))


def unused(config: Config) -> dict[str, LazyArray]:
    """Zeros for the attentions that CHAMP's class has and never calls: its loader wants them to be there."""
    channels = tuple(config["guidance"]["channels"])
    widths = [channels[(i + 1) // 2] for i in range(5)]
    found = {}
    for owner, width in [(f"attentions.{i}", width) for i, width in enumerate(widths)] + [("guidance_attention", channels[-1])]:
        shapes = abstract(_attention, (width, config["guidance"].get("ff_mult", 4)))
        for name, shape in their_shapes({"attention": shapes}, LAYOUT).items():
            make = lambda shape=shape: np.zeros(shape, np.float32)  # noqa: E731
            found[name.replace("attentions.5", owner)] = LazyArray(shape, np.dtype(np.float32), make)
    return found


def _attention(config, rngs):
    width, ff_mult = config
    return SpatialTransformer(width, 1, 1, None, ff_mult, rngs, Policy())


def champ_encoder(kind: str) -> Format:
    """The format of guidance_encoder_KIND.pth."""
    return Format(
        "a guidance encoder of CHAMP",
        ("conv_in.weight", "blocks.5.weight", "attentions.5.norm.weight", "guidance_attention.norm.weight"),
        geometry(kind),
        lambda config: {f"guidance/{kind}": Component(encoder_shapes(config), LAYOUT)},
        absent=unused,
    )
