"""Training the small VAE: it learns, repeats itself, scales its latents, and writes weights that load."""

import jax
import numpy as np
import pytest
from flax import nnx

from champ_jax.checkpoint.weights import load_weights
from champ_jax.config import load_config
from champ_jax.errors import UserError
from champ_jax.models.animator import merge, split
from champ_jax.models.vae import VAE, VAEConfig
from champ_jax.train import autoencoder
from champ_jax.train.autoencoder import train_autoencoder

TINY = VAEConfig(channels=(8, 16), layers=1, groups=4, latent_channels=4, patch=2, middle=False)


@pytest.fixture(scope="module")
def scene():
    """Frames u8 [24,16,16,3] of a coloured square on a grey background, and its masks."""
    rng = np.random.default_rng(0)
    frames, masks = np.full((24, 16, 16, 3), 90, np.uint8), np.zeros((24, 16, 16), np.uint8)
    for frame, mask in zip(frames, masks, strict=True):
        top, left = rng.integers(0, 10, 2)
        frame[top : top + 6, left : left + 6] = rng.integers(0, 256, 3)
        mask[top : top + 6, left : left + 6] = 1
    return frames, masks


def test_learns_and_scales(scene):
    frames, masks = scene
    history = []
    params, scaling = train_autoencoder(
        frames, masks, TINY, steps=60, batch=4, learning_rate=5e-3, log=lambda step, m: history.append((step, m))
    )
    losses = [float(metrics["loss"]) for _, metrics in history]
    assert [step for step, _ in history] == list(range(1, 61))
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    graphdef, _ = split(nnx.eval_shape(lambda: VAE(TINY, nnx.Rngs(0))))
    latents = merge(graphdef, params).encode(frames.astype(np.float32) / 127.5 - 1)[0] * scaling
    assert abs(float(latents.std()) - 1) < 0.05


def test_same_seed_same_weights(scene):
    runs = [train_autoencoder(*scene, TINY, steps=3, batch=2, seed=7)[0] for _ in range(2)]
    assert jax.tree.all(jax.tree.map(np.array_equal, *runs))


def test_errors(scene):
    frames, masks = scene
    with pytest.raises(UserError, match="at least one"):
        train_autoencoder(frames[:0], masks[:0], TINY, steps=1)
    with pytest.raises(UserError, match="multiples of 4"):
        train_autoencoder(frames[:, :15], masks[:, :15], TINY, steps=1)


def test_from_configuration_to_weights(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "load_frames", lambda directory, split, size: scene)
    overrides = ["optim.steps=2", "batch_size=2", "vae.channels=(8,8)", "vae.groups=4", "vae.latent_channels=2"]
    config = load_config("configs/demo_vae.py", [f"--config.{text}" for text in overrides])
    figures = autoencoder.train(config, tmp_path)
    params, saved = load_weights(tmp_path / "weights")
    assert saved["vae"]["scaling"] == figures["scaling"] > 0
    assert VAEConfig(**{**saved["vae"], "channels": tuple(saved["vae"]["channels"])}).downsampling == 4
    assert set(params) == {"vae"} and (tmp_path / "metrics.jsonl").read_text().strip()


def test_no_frames_at_all(monkeypatch):
    class Empty(list):
        directory = "nowhere"

    monkeypatch.setattr(autoencoder, "open_records", lambda directory, split: Empty())
    with pytest.raises(UserError, match="zero frames"):
        autoencoder.load_frames("nowhere", "train", (8, 8))
