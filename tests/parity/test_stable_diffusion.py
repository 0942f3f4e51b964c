"""The UNet and VAE of diffusers and the CLIP of transformers, at odd sizes and, marked slow, at full size."""

import numpy as np
import pytest

from champ_jax.convert.clip import VISION
from champ_jax.convert.formats import as_config, read
from champ_jax.convert.unet import DENOISER, unet_config
from champ_jax.convert.vae import SD_VAE
from champ_jax.models.clip import CLIP, CLIPConfig
from champ_jax.models.unet import UNet
from champ_jax.models.vae import VAE, VAEConfig
from tests.convert.keys import config_of
from tests.parity.formats import filled, run
from tests.recorded import recorded
from tests.seeded import seeded, seeded_state

full = pytest.mark.slow


def tolerance(name):
    """A few blocks of VAE and CLIP are held to 1e-5, whole networks to 1e-4."""
    return 1e-5 if "odd" in name else 1e-4


def channels_last(array):
    return np.moveaxis(array, 1, -1)


def weights_of(name, format, config):
    shapes, outputs = recorded(name)
    return read(seeded_state(shapes), config, format, name), outputs


@pytest.mark.parametrize("name, size", [("sd_unet_odd", (11, 8)), pytest.param("sd_unet", (16, 24), marks=full)])
def test_unet(name, size, compare):
    weights, outputs = weights_of(name, DENOISER, config_of("sd-unet odd") if "odd" in name else {})
    model = filled(UNet, unet_config(weights.config), weights.params["denoiser"])
    latents = channels_last(seeded("latents", (1, 4, *size)))[:, None]
    context = seeded("context", (1, 3, model.config.context_dim))
    out = run(model, UNet.__call__, latents, np.array([501]), context)[:, 0]
    compare(f"diffusers/{name}", out, channels_last(outputs["out"]))


@pytest.mark.parametrize("name, size", [("sd_vae_odd", (24, 32)), pytest.param("sd_vae", (64, 48), marks=full)])
def test_vae(name, size, compare):
    weights, outputs = weights_of(name, SD_VAE, config_of("sd-vae odd") if "odd" in name else {})
    model = filled(VAE, as_config(VAEConfig, weights.config["vae"]), weights.params["vae"])
    factor = model.config.downsampling
    mean, logvar = run(model, VAE.encode, channels_last(seeded("image", (1, 3, *size))))
    decoded = run(model, VAE.decode, channels_last(seeded("z", (1, 4, size[0] // factor, size[1] // factor))))
    for part, ours in (("mean", mean), ("logvar", logvar), ("decoded", decoded)):
        compare(f"diffusers/{name}/{part}", ours, channels_last(outputs[part]), tolerance=tolerance(name))


@pytest.mark.parametrize("name", ["clip_odd", pytest.param("clip_l14", marks=full), pytest.param("clip_h14", marks=full)])
def test_clip(name, compare):
    weights, outputs = weights_of(name, VISION, config_of("clip-vision odd") if "odd" in name else {})
    config = CLIPConfig(**weights.config["clip"])
    pixels = channels_last(seeded("pixels", (1, 3, config.image_size, config.image_size)))
    embeds = run(filled(CLIP, config, weights.params["clip"]), CLIP.__call__, pixels)
    compare(f"transformers/{name}", embeds, outputs["embeds"], tolerance=tolerance(name))
