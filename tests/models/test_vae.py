"""The VAE: size, shapes, folding of patches, errors; its numbers are checked in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from champ_jax.errors import UserError
from champ_jax.models.animator import merge, split
from champ_jax.models.vae import VAE, VAEConfig, vae_images, vae_latents
from champ_jax.nn.layers import fold_patches, unfold_patches

TINY = VAEConfig(channels=(8, 16), layers=1, groups=4, latent_channels=3, scaling=0.5)


def make(config):
    """A VAE with random parameters, made in one compiled function."""
    graphdef, _ = split(nnx.eval_shape(lambda: VAE(config, nnx.Rngs(0))))
    return merge(graphdef, jax.jit(lambda: split(VAE(config, nnx.Rngs(0)))[1])())


def test_full_size_is_stable_diffusions():
    """spec: 34,163,664 in the encoder and 49,490,199 in the decoder, each with its 1x1 convolution."""
    _, shapes = split(nnx.eval_shape(lambda: VAE(VAEConfig(), nnx.Rngs(0))))
    counts = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in shapes.items()}
    assert counts["encoder"] + counts["quant_conv"] == 34_163_664
    assert counts["decoder"] + counts["post_quant_conv"] == 49_490_199
    assert VAEConfig().downsampling == 8


def test_shapes_and_helpers():
    vae = make(TINY)
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 3, 8, 12, 3)), jnp.float32)
    latents = vae_latents(vae, images)
    assert latents.shape == (2, 3, 4, 6, 3)
    mean, logvar = vae.encode(images[0])
    np.testing.assert_allclose(latents[0], 0.5 * mean, atol=1e-5)
    assert logvar.shape == mean.shape
    sampled = vae_latents(vae, images, jax.random.key(0))
    assert np.abs(sampled - latents).max() > 1e-3
    decoded = vae_images(vae, latents)
    assert decoded.shape == images.shape and decoded.min() >= 0 and decoded.max() <= 1
    np.testing.assert_allclose(decoded, np.clip(vae.decode(latents / 0.5) / 2 + 0.5, 0, 1), atol=1e-5)


def test_patches():
    config = VAEConfig(channels=(8, 8), layers=1, groups=4, latent_channels=2, patch=2)
    assert config.downsampling == 4
    vae = make(config)
    assert vae.encode(jnp.zeros((1, 8, 16, 3)))[0].shape == (1, 2, 4, 2)
    assert vae.decode(jnp.zeros((1, 2, 4, 2))).shape == (1, 8, 16, 3)
    assert all("mid" in split(vae)[1][half] for half in ("encoder", "decoder"))


def test_folding_and_unfolding():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    folded = fold_patches(x, 2)
    assert folded.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(folded[0, 0, 0], x[0, :2, :2].reshape(-1))
    np.testing.assert_array_equal(unfold_patches(folded, 2), x)


def test_errors():
    with pytest.raises(UserError, match="groups"):
        VAEConfig(channels=(8, 10), groups=4)
    with pytest.raises(UserError, match="multiples of 2"):
        make(TINY).encode(jnp.zeros((1, 7, 8, 3)))
