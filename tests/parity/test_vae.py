"""The VAE: moments, decoding, and both generations of attention names."""

import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.convert.vae import OLD_ATTENTION, vae_from_torch, vae_to_torch
from champ_jax.errors import UserError
from champ_jax.models.animator import split
from champ_jax.models.vae import VAE
from tests.parity.networks import channels_last, jitted


def test_encode(networks, load, compare):
    recorded = load("io_vae")
    images = channels_last(recorded["image_u8"]).astype(np.float32) / 127.5 - 1.0
    vae = networks.vae()
    mean, logvar = jitted(vae, VAE.encode)(images)
    compare("vae/mean", mean, channels_last(recorded["mean"]))
    compare("vae/logvar", logvar, channels_last(recorded["logvar_clamped"]))
    compare("vae/std", jnp.exp(0.5 * logvar), channels_last(recorded["std"]))
    moments = jitted(vae, lambda vae, x: vae.quant_conv(vae.encoder(x)))(images)
    compare("vae/moments", moments, channels_last(recorded["moments"]))


def test_decode(networks, load, compare):
    recorded = load("io_vae")
    images = jitted(networks.vae(), VAE.decode)(channels_last(recorded["z"]))
    compare("vae/decoded", images, channels_last(recorded["decoded"]))


def test_old_attention_names(networks, load):
    """The released file's names, and its even older form with 1x1 convolutions, give the same parameters."""
    new, old = load("vae"), load("vae_old_keys_attention_only")
    replaced = {name for name in new if any(f".{part}." in name for part in OLD_ATTENTION.values())}
    assert len(replaced) == len(old)
    state = {name: array for name, array in new.items() if name not in replaced} | old
    _, shapes = networks.vae_graph()
    convolutions = {name: array[..., None, None] if array.ndim == 2 and name in old else array for name, array in state.items()}
    expected = vae_to_torch(vae_from_torch(new, shapes))
    for variant in (state, convolutions):
        found = vae_to_torch(vae_from_torch(variant, shapes))
        assert found.keys() == expected.keys() == new.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in found)


def test_every_key_is_accounted_for(networks, load):
    state = load("vae")
    _, shapes = networks.vae_graph()
    with pytest.raises(UserError, match="decoder.extra"):
        vae_from_torch({**state, "decoder.extra": np.zeros(1)}, shapes)
    missing = {name: array for name, array in state.items() if name != "quant_conv.bias"}
    with pytest.raises(UserError, match="quant_conv.bias"):
        vae_from_torch(missing, shapes)


def test_round_trip(networks, load):
    state = load("vae")
    again = vae_to_torch(split(networks.vae())[1])
    assert again.keys() == state.keys()
    assert all(np.array_equal(again[name], state[name].astype(np.float32)) for name in state)
