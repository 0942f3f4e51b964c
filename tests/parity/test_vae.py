"""The VAE: moments, decoding, and both generations of attention names."""

import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.convert.formats import read, write
from champ_jax.convert.vae import FIRST_SD_VAE, OLD_SD_VAE, SD_VAE
from champ_jax.errors import UserError
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


def test_all_generations_of_attention_names(load, manifest):
    """Today's names, those of the released file, and its even older form with 1x1 convolutions."""
    config = manifest["files"]["io_vae.safetensors"]["kwargs"]
    new, old = load("vae"), load("vae_old_keys_attention_only")
    replaced = {name for name in new if ".attentions." in name and ".group_norm." not in name}
    assert len(replaced) == len(old)
    state = {name: array for name, array in new.items() if name not in replaced} | old
    convolutions = {name: array[..., None, None] if array.ndim == 2 and name in old else array for name, array in state.items()}
    params = []
    for given, format in ((new, SD_VAE), (state, OLD_SD_VAE), (convolutions, FIRST_SD_VAE)):
        shapes = {name: array.shape for name, array in given.items()}
        assert [known for known in (SD_VAE, OLD_SD_VAE, FIRST_SD_VAE) if known.matches(shapes)] == [format]
        weights = read(given, config, format, "vae")
        again = write(weights, format, "ours")
        assert again.keys() == given.keys()
        assert all(np.asarray(again[name]).tobytes() == given[name].tobytes() for name in given)
        params.append(write(weights, SD_VAE, "ours"))
    for other in params[1:]:
        assert all(np.array_equal(other[name], new[name]) for name in new)


def test_every_key_is_accounted_for(load, manifest):
    state, config = load("vae"), manifest["files"]["io_vae.safetensors"]["kwargs"]
    with pytest.raises(UserError, match="decoder.extra"):
        read({**state, "decoder.extra": np.zeros(1)}, config, SD_VAE, "vae")
    missing = {name: array for name, array in state.items() if name != "quant_conv.bias"}
    with pytest.raises(UserError, match="quant_conv.bias"):
        read(missing, config, SD_VAE, "vae")
