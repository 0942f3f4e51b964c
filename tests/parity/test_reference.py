"""The reference network: every bank entry by block name, and its output."""

import re

import numpy as np
import pytest

from champ_jax.convert.formats import read, write
from champ_jax.convert.unet import REFERENCE
from champ_jax.errors import UserError
from champ_jax.models.reference import reference_features
from tests.parity.networks import channels_last, jitted


def block_name(module: str) -> str:
    """ "down_blocks.0.attentions.1.transformer_blocks.0" -> "down_0/attention_1"."""
    level, attention = re.match(r"(.+)\.attentions\.(\d+)\.", module).groups()
    return f"{level.replace('_blocks.', '_').replace('_block', '')}/attention_{attention}"


@pytest.mark.parametrize("variant", ["nocfg", "cfg"])
def test_features_and_output(variant, networks, load, compare):
    recorded = load("io_reference")
    context = recorded["encoder_hidden_states" + ("_cfg" if variant == "cfg" else "")]
    latents = np.repeat(channels_last(recorded["ref_latents"]), len(context), axis=0)

    def features_and_output(unet, latents, context):
        return reference_features(unet, latents[:, None], context[:, None]), unet(latents[:, None], 0, context)[:, 0]

    features, output = jitted(networks.reference(), features_and_output)(latents, context)
    bank = {name.split(".", 2)[2]: array for name, array in recorded.items() if name.startswith(f"bank_{variant}.")}
    assert {block_name(module) for module in bank} == set(features)
    for module, array in bank.items():
        compare(f"reference/{variant}/{block_name(module)}", features[block_name(module)].tokens[:, 0], array)
    compare(f"reference/{variant}/output", output, channels_last(recorded[f"output_sample_{variant}"]))


def test_writer_and_reader_pair_by_name(networks, manifest):
    order = manifest["bank_order"]
    names = [set(map(block_name, order[side])) for side in ("writer", "reader")]
    blocks = [set(network.attention_blocks()) for network in (networks.reference(), networks.denoiser())]
    assert names == blocks


def test_weights_survive_the_way_back(load):
    state = load("reference_unet")
    back = write(read(state, {}, REFERENCE, "reference"), REFERENCE, "ours")
    assert back.keys() == state.keys()
    assert all(np.asarray(back[name]).tobytes() == state[name].tobytes() for name in state)


def test_every_key_is_accounted_for(load):
    """A missing key, a key too many and a wrong shape are all named in one error."""
    state = dict(load("reference_unet"))
    state["time_embedding.linear_2.weight"] = state["time_embedding.linear_2.weight"][:1]
    del state["time_embedding.linear_1.bias"]
    state["conv_out.weight"] = np.zeros((4, 4))
    with pytest.raises(UserError) as error:
        read(state, {}, REFERENCE, source="reference_unet.pth")
    for name in ("reference_unet.pth", "time_embedding.linear_2.weight", "time_embedding.linear_1.bias", "conv_out.weight"):
        assert name in str(error.value)
