"""Names of CHAMP's state dicts at full size, and exact conversion both ways at a tiny one."""

import dataclasses

import jax
import numpy as np
from champ_jax.convert.champ import (
    GUIDANCE_RULES,
    TEMPORAL_RULES,
    UNET_RULES,
    join_temporal,
    split_temporal,
    temporal_from_torch,
    temporal_to_torch,
    unet_from_torch,
    unet_to_torch,
)
from flax import nnx
from flax.traverse_util import flatten_dict

from champ_jax.convert.mapping import torch_name
from champ_jax.models.animator import split
from champ_jax.models.guidance import GuidanceConfig, GuidanceEncoder
from champ_jax.models.temporal import TemporalConfig
from champ_jax.models.unet import UNet, UNetConfig
from champ_jax.nn.keys import ParamKeys
from tests.models.filled import filled

TINY = UNetConfig(
    channels=(8, 16), attention_levels=(True, False), layers=1, heads=2, groups=4, context_dim=6,
    temporal=TemporalConfig(heads=2, groups=4),
)  # fmt: skip


def shapes(model, config):
    return split(nnx.eval_shape(lambda: model(config, ParamKeys(0))))[1]


def names(params, rules):
    found = [torch_name(path, rules) for path in flatten_dict(params, sep="/")]
    assert len(set(found)) == len(found)
    return set(found)


def test_full_size_names():
    """As many as CHAMP's files have, without position buffers and attentions that are never called."""
    spatial, temporal = split_temporal(shapes(UNet, UNetConfig(temporal=TemporalConfig())))
    denoiser = names(spatial, UNET_RULES)
    assert len(denoiser) == 686
    assert {
        "down_blocks.2.resnets.1.time_emb_proj.weight",
        "down_blocks.0.downsamplers.0.conv.bias",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.bias",
        "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.weight",
        "up_blocks.1.resnets.2.conv_shortcut.weight",
        "time_embedding.linear_2.weight",
        "conv_norm_out.weight",
    } <= denoiser
    reference = names(shapes(UNet, UNetConfig(head=False)), UNET_RULES)
    assert len(reference) == 682
    assert denoiser - reference == {f"{part}.{leaf}" for part in ("conv_norm_out", "conv_out") for leaf in ("weight", "bias")}

    motion = names(temporal, TEMPORAL_RULES)
    assert len(motion) == 588 - 42
    block = "up_blocks.3.motion_modules.2.temporal_transformer.transformer_blocks.0"
    assert {
        f"{block}.attention_blocks.1.to_out.0.weight",
        f"{block}.norms.1.bias",
        f"{block}.ff_norm.weight",
        f"{block}.ff.net.2.bias",
        "mid_block.motion_modules.0.temporal_transformer.proj_out.bias",
    } <= motion

    guidance = names(shapes(GuidanceEncoder, GuidanceConfig()), GUIDANCE_RULES)
    assert len(guidance) == 149 - 6 * 19
    assert {"blocks.5.weight", "attentions.5.norm.weight", "attentions.5.transformer_blocks.0.norm3.bias"} <= guidance


def test_there_and_back():
    _, params = split(filled(lambda: UNet(TINY, ParamKeys(0))))
    spatial, temporal = split_temporal(params)
    state, motion = unet_to_torch(spatial), temporal_to_torch(temporal)
    assert state["down_blocks.0.attentions.0.proj_in.weight"].shape == (8, 8, 1, 1)
    assert state["conv_in.weight"].shape == (8, 4, 3, 3)
    motion["down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"] = np.zeros(
        (1, 32, 8)
    )
    back = join_temporal(unet_from_torch(state, spatial), temporal_from_torch(motion, temporal))
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_convolution_weights_are_transposed():
    config = dataclasses.replace(TINY, temporal=None)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes(UNet, config))
    params["conv_in"]["kernel"][0, 2, 3, 5] = 1.0  # row 0, column 2, from channel 3 to channel 5
    assert unet_to_torch(params)["conv_in.weight"][5, 3, 0, 2] == 1.0
