"""CHAMP's guidance encoders, one file a kind of map."""

from __future__ import annotations

from typing import Any

import numpy as np

from champ_jax.checkpoint.tensors import LazyArray
from champ_jax.convert.formats import Component, Config, Format, Shapes, as_config
from champ_jax.convert.mapping import Layout, abstract, their_shapes
from champ_jax.convert.unet import TRANSFORMER
from champ_jax.errors import UserError
from champ_jax.models.guidance import GuidanceConfig, GuidanceEncoder
from champ_jax.nn.blocks import SpatialTransformer
from champ_jax.nn.policy import Policy


def layout(widths: int) -> Layout:
    """Of an encoder with so many widths: CHAMP's class has an attention behind each block and calls the last one only."""
    last = 2 * (widths - 1) - 1
    return Layout(
        rules=(*TRANSFORMER, (r"^block_(\d+)/", r"blocks.\1/"), (r"^attention/", f"attentions.{last}/")),
        pointwise=r"^attention/proj_(in|out)/",
        kept={
            **{f"attentions.{i}.*": "never called by CHAMP: only the last attention is" for i in range(last)},
            "guidance_attention.*": "never called by CHAMP",
        },
    )


def geometry(kind: str):
    """Reads {"guidance": ..., "kinds": (kind,)}; heads and norm groups, which change no shape, are CHAMP's 8 and 32."""

    def read(shapes: Shapes, config: Config) -> dict[str, Any]:
        channels = [shapes["conv_in.weight"][0]]
        while found := shapes.get(f"blocks.{2 * len(channels) - 1}.weight"):
            channels.append(found[0])
        attention = f"attentions.{max(2 * (len(channels) - 1) - 1, 1)}.transformer_blocks.0.ff.net.0.proj.weight"
        if missing := [name for name in ("blocks.1.weight", attention, "conv_out.weight") if name not in shapes]:
            raise UserError(f"a guidance encoder of CHAMP has {missing[0]}, and this has not.")
        hidden, width = shapes[attention]
        shown = {"channels": channels, "out_channels": shapes["conv_out.weight"][0], "ff_mult": hidden // (2 * width)}
        return {"guidance": {"patch": 1, "attention": True, "heads": 8, "groups": 32, **shown}, "kinds": (kind,)}

    return read


def encoder_shapes(config: Config) -> dict[str, Any]:
    """Shapes of one encoder's parameters, as a nested dict."""
    return abstract(GuidanceEncoder, as_config(GuidanceConfig, config["guidance"]))


def encoder(config: Config) -> Component:
    """One encoder of this geometry in its file."""
    return Component(encoder_shapes(config), layout(len(config["guidance"]["channels"])))


def unused(config: Config) -> dict[str, LazyArray]:
    """Zeros for the attentions that CHAMP's class has and never calls: its loader wants them to be there."""
    channels = tuple(config["guidance"]["channels"])
    own, last = layout(len(channels)), 2 * (len(channels) - 1) - 1
    widths = [channels[(i + 1) // 2] for i in range(last)]
    found = {}
    for owner, width in [(f"attentions.{i}", width) for i, width in enumerate(widths)] + [("guidance_attention", channels[-1])]:
        shapes = abstract(_attention, (width, config["guidance"].get("ff_mult", 4)))
        for name, shape in their_shapes({"attention": shapes}, own).items():
            make = lambda shape=shape: np.zeros(shape, np.float32)  # noqa: E731
            found[name.replace(f"attentions.{last}", owner)] = LazyArray(shape, np.dtype(np.float32), make)
    return found


def _attention(config, rngs):
    width, ff_mult = config
    return SpatialTransformer(width, 1, 1, None, ff_mult, rngs, Policy())


def champ_encoder(kind: str) -> Format:
    """The format of guidance_encoder_KIND.pth."""
    return Format(
        "a guidance encoder of CHAMP",
        ("conv_in.weight", "blocks.1.weight", "attentions.1.norm.weight", "guidance_attention.norm.weight"),
        geometry(kind),
        lambda config: {f"guidance/{kind}": encoder(config)},
        absent=unused,
    )
