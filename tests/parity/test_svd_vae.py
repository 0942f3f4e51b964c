"""Stable Video Diffusion's autoencoder against diffusers' class, and its files."""

import jax
import numpy as np
import pytest

from champ_jax.convert.formats import read
from champ_jax.convert.mapping import abstract
from champ_jax.convert.svd_vae import SVD_VAE
from champ_jax.errors import UserError
from champ_jax.models.temporal_vae import TemporalVAE, TemporalVAEConfig
from champ_jax.nn.keys import ParamKeys
from tests.parity.formats import check_accounting, check_round_trip, filled, run
from tests.recorded import recorded
from tests.seeded import seeded, seeded_state

NAMES = ("svd_vae", "svd_vae_shallow", "svd_vae_deep")


@pytest.mark.parametrize("name", NAMES)
def test_numbers(name, compare):
    shapes, outputs = recorded(name)
    weights = read(seeded_state(shapes), {}, SVD_VAE, "the file")
    vae = filled(TemporalVAE, TemporalVAEConfig(**weights.config["temporal_vae"]), weights.params["temporal_vae"])
    z = np.moveaxis(seeded("z", (2, 3, 4, 4, 6)), 2, -1)
    compare(f"{name}/decoded", run(vae, TemporalVAE.decode, z), np.moveaxis(outputs["decoded"], 2, -1))
    x = np.moveaxis(seeded("x", (2, 3, 16, 24)), 1, -1)
    mean, logvar = run(vae, TemporalVAE.encode, x)
    compare(f"{name}/mean", mean, np.moveaxis(outputs["mean"], 1, -1))
    compare(f"{name}/logvar", logvar, np.moveaxis(outputs["logvar"], 1, -1))


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(name):
    shapes, _ = recorded(name)
    check_round_trip(seeded_state(shapes), SVD_VAE)


def test_what_is_never_called_is_kept():
    for name, part in (("svd_vae_shallow", "attentions.0."), ("svd_vae_deep", "resnets.2.")):
        shapes, _ = recorded(name)
        weights = read(seeded_state(shapes), {"scaling_factor": 0.5}, SVD_VAE, "the file")
        assert weights.kept and all(key.startswith(f"decoder.mid_block.{part}") for key in weights.kept)
        assert weights.reasons.keys() == weights.kept.keys()
        assert weights.config["temporal_vae"]["scaling"] == 0.5


def test_accounting():
    state = seeded_state(recorded("svd_vae")[0])
    check_accounting(state, SVD_VAE, "decoder.up_blocks.1.resnets.0.time_mixer.mix_factor")
    check_accounting(state, SVD_VAE, "decoder.conv_in.weight")


def test_full_size():
    """The default geometry has the released file's tensors."""
    leaves = jax.tree.leaves(abstract(TemporalVAE, TemporalVAEConfig()))
    assert (len(leaves), sum(leaf.size for leaf in leaves)) == (374, 97_742_847)


def test_frames_of_odd_size():
    vae = TemporalVAE(TemporalVAEConfig(channels=(32, 32)), ParamKeys(0))
    with pytest.raises(UserError, match="multiples of 2"):
        vae.encode(np.zeros((1, 5, 4, 3), np.float32))
    with pytest.raises(UserError, match="latents"):
        vae.decode(np.zeros((2, 4, 4, 4), np.float32))
