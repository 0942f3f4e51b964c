"""The linear autoencoder: it rebuilds what its components span, scales its latents, and writes weights that load."""

import numpy as np
import pytest
from flax import nnx

from champ_jax.checkpoint.weights import load_weights
from champ_jax.config import load_config
from champ_jax.errors import UserError
from champ_jax.models.animator import merge, split
from champ_jax.models.vae import VAE, VAEConfig
from champ_jax.train import autoencoder
from champ_jax.train.autoencoder import fit_autoencoder, patch_statistics


@pytest.fixture(scope="module")
def scene():
    """24 frames u8 [16,16,3] of a coloured square on a grey background, with their masks."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(24):
        frame, mask = np.full((16, 16, 3), 90, np.uint8), np.zeros((16, 16), np.uint8)
        top, left = rng.integers(0, 10, 2)
        frame[top : top + 6, left : left + 6] = rng.integers(0, 256, 3)
        mask[top : top + 6, left : left + 6] = 1
        frames.append((frame, mask))
    return frames


def fitted(scene, latents):
    params, config = fit_autoencoder(patch_statistics(scene, 4), VAEConfig(channels=(), latent_channels=latents, patch=4))
    graphdef, shapes = split(nnx.eval_shape(lambda: VAE(config, nnx.Rngs(0))))
    assert {n: {k: v.shape for k, v in layer.items()} for n, layer in shapes.items()} == {
        n: {k: v.shape for k, v in layer.items()} for n, layer in params.items()
    }
    return merge(graphdef, params)


def test_all_components_rebuild_every_image(scene):
    vae = fitted(scene, 48)
    images = np.random.default_rng(1).uniform(-1, 1, (2, 3, 8, 12, 3)).astype(np.float32)
    mean, logvar = vae.encode(images)
    assert mean.shape == (2, 3, 2, 3, 48)
    np.testing.assert_allclose(vae.decode(mean), images, atol=1e-5)
    assert float(np.exp(0.5 * logvar).max()) < 1e-6


def test_more_components_rebuild_better_and_scaling_makes_unit_variance(scene):
    images = np.stack([frame for frame, _ in scene]).astype(np.float32) / 127.5 - 1
    errors = []
    for latents in (2, 12, 30):
        vae = fitted(scene, latents)
        errors.append(float(np.square(vae.decode(vae.encode(images)[0]) - images).mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    # The person's patches count more than once in the fit, and the square's colours vary most.
    assert 0.3 < float(np.std(vae.encode(images)[0] * vae.config.scaling)) < 1.2


def test_colours_and_sides_are_alike(scene):
    """The statistics are those of all orders of the channels and of mirrored frames."""
    covariance = patch_statistics(scene, 4).products.reshape(4, 4, 3, 4, 4, 3)
    np.testing.assert_allclose(covariance, covariance[:, :, [2, 0, 1]][..., [2, 0, 1]])
    np.testing.assert_allclose(covariance, covariance[:, ::-1][:, :, :, :, ::-1])


def test_errors(scene):
    with pytest.raises(UserError, match="zero frames"):
        patch_statistics([], 4)
    with pytest.raises(UserError, match="patches of 5"):
        patch_statistics(scene, 5)
    statistics = patch_statistics(scene, 4)
    with pytest.raises(UserError, match="at most 48 latent_channels"):
        fit_autoencoder(statistics, VAEConfig(channels=(), latent_channels=49, patch=4))
    with pytest.raises(UserError, match="channels"):
        fit_autoencoder(statistics, VAEConfig(channels=(32,), latent_channels=8, patch=4))


def test_from_configuration_to_weights(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "load_frames", lambda directory, split, size: scene)
    figures = autoencoder.train(load_config("configs/demo_vae.py", ["--config.vae.latent_channels=12"]), tmp_path)
    params, saved = load_weights(tmp_path / "weights")
    assert saved["vae"]["scaling"] == figures["scaling"] > 0 and figures["psnr"] > 20
    assert VAEConfig(**{**saved["vae"], "channels": ()}).downsampling == 4
    assert set(params) == {"vae"} and (tmp_path / "metrics.jsonl").read_text().strip()


def test_no_frames_at_all(monkeypatch):
    class Empty(list):
        directory = "nowhere"

    monkeypatch.setattr(autoencoder, "open_records", lambda directory, split: Empty())
    with pytest.raises(UserError, match="zero frames"):
        autoencoder.load_frames("nowhere", "train", (8, 8))
