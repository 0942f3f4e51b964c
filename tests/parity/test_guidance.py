"""Guidance encoders: output of each kind, both sides of the one live attention, and the sum."""

import dataclasses

import numpy as np

from champ_jax.convert.formats import read, write
from champ_jax.convert.guidance import champ_encoder
from champ_jax.models.guidance import fuse_guidance
from tests.parity.networks import channels_last, jitted


def maps(recorded, networks):
    return {kind: channels_last(recorded[f"{kind}.input_u8"]).astype(np.float32) / 255 for kind in networks.guidance()}


def test_each_kind(networks, load, compare):
    recorded = load("io_guidance")
    for kind, x in maps(recorded, networks).items():
        encoded = jitted(networks.guidance()[kind], lambda encoder, x: encoder(x))(x)
        compare(f"guidance/{kind}", encoded, channels_last(recorded[f"{kind}.output"]))


def test_around_the_attention(networks, load, compare):
    recorded = load("io_guidance")
    kinds = [name.split(".")[0] for name in recorded if name.endswith(".pre_attention")]
    for kind in kinds:
        x = maps(recorded, networks)[kind]

        def both_sides(encoder, x):
            before = encoder.convolve(x.reshape(-1, *x.shape[2:]))
            return before, encoder.attention(before)[0]

        before, after = jitted(networks.guidance()[kind], both_sides)(x)
        expected = channels_last(recorded[f"{kind}.pre_attention"])
        compare(f"guidance/{kind}/pre_attention", before.reshape(expected.shape), expected)
        compare(
            f"guidance/{kind}/post_attention",
            after.reshape(expected.shape),
            channels_last(recorded[f"{kind}.post_attention"]),
        )
    assert kinds


def test_sum(networks, load, compare):
    recorded = load("io_guidance")
    fused = fuse_guidance(networks.guidance(), maps(recorded, networks))
    compare("guidance/sum", fused, channels_last(recorded["sum"]))


def test_weights_survive_the_way_back(networks, load):
    """Converted to PyTorch's names again, every tensor is the recorded one, those that are never used included."""
    for kind in networks.guidance():
        state, format = load(f"guidance_encoder_{kind}"), champ_encoder(kind)
        back = write(read(state, {}, format, kind), format, "ours")
        assert back.keys() == state.keys()
        assert all(np.asarray(array).tobytes() == state[name].tobytes() for name, array in back.items())


def test_an_encoder_trained_here_is_whole_for_champ(networks, load):
    """Without the file it came from, the attentions that CHAMP never calls are there, and zero."""
    state, format = load("guidance_encoder_depth"), champ_encoder("depth")
    weights = read(state, {}, format, "depth")
    back = write(dataclasses.replace(weights, kept={}), format, "ours")
    assert {name: array.shape for name, array in back.items()} == {name: array.shape for name, array in state.items()}
    assert not np.asarray(back["guidance_attention.proj_in.weight"]).any()
