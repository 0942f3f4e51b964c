"""The autoencoder in tiles: the whole picture's result where it is to be exact, and no seams where it is not."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from champ_jax.errors import UserError
from champ_jax.models.vae import VAE, VAEConfig
from champ_jax.models.vae_tiles import decode_tiled, encode_tiled, plan_tiles, reach
from tests.contract.source import REPOSITORY

# Stable Diffusion's kind: convolutions, norms and attention, at three resolutions.
CONFIG = VAEConfig(channels=(8, 16, 16), layers=1, groups=4)
TILE, OVERLAP = 48, 32
SIZE = (64, 92)


@functools.cache
def model(config=CONFIG):
    return nnx.split(VAE(config, nnx.Rngs(0)))


def run(function, x, *args, config=CONFIG, **kwargs):
    graphdef, state = model(config)
    result = jax.jit(lambda state, x: function(nnx.merge(graphdef, state), x, *args, **kwargs))(state, x)
    return jax.tree.map(np.asarray, result)


@functools.cache
def photo():
    """A crop of the photo, [1,64,92,3] in [-1,1]."""
    image = Image.open(REPOSITORY / "assets" / "photo.png").convert("RGB").resize((128, 128), Image.Resampling.BOX)
    return np.asarray(image, np.float32)[None, 8 : 8 + SIZE[0], 20 : 20 + SIZE[1]] / 127.5 - 1


@functools.cache
def whole():
    """Of the photo by the untiled VAE: mean, log variance, and the mean decoded."""
    mean, logvar = run(VAE.encode, photo())
    return mean, logvar, run(VAE.decode, mean)


def test_exact_is_the_whole_picture():
    """At a size that is no multiple of the tile, one side hardly larger than it."""
    assert 2 * reach(CONFIG) <= OVERLAP
    mean, logvar, decoded = whole()
    ours, our_logvar = run(encode_tiled, photo(), TILE, OVERLAP, exact=True)
    np.testing.assert_allclose(ours, mean, atol=1e-3 * mean.std())
    np.testing.assert_allclose(our_logvar, logvar, atol=1e-3 * logvar.std())
    np.testing.assert_allclose(run(decode_tiled, mean, TILE, OVERLAP, exact=True), decoded, atol=1e-3 * decoded.std())


def test_no_seams():
    """The gradient across the lines where tiles meet, against that elsewhere, is the untiled picture's. Frames keep apart."""
    mean, _, decoded = whole()
    tiled, other = np.split(run(decode_tiled, np.concatenate([mean, -mean]), TILE, OVERLAP), 2)
    assert tiled.shape == decoded.shape and np.abs(tiled - other).max() > decoded.std()
    starts = np.unique(plan_tiles(SIZE, TILE, OVERLAP, CONFIG).starts[:, 1])
    middles = (starts[1:] + starts[:-1] + TILE) // 2

    def prominence(image):
        gradient = np.abs(np.diff(image, axis=2)).mean((0, 1, 3))
        seam = np.isin(np.arange(len(gradient)), np.add.outer(middles, np.arange(-2, 2)).ravel())
        return gradient[seam].mean() / gradient[~seam].mean()

    assert len(middles) >= 2 and prominence(tiled) / prominence(decoded) == pytest.approx(1, abs=0.05)


def test_what_fits_is_not_cut():
    small = photo()[:, :48, :48]
    np.testing.assert_array_equal(run(encode_tiled, small, TILE, OVERLAP)[0], run(VAE.encode, small)[0])
    linear = VAEConfig(channels=(), latent_channels=6, patch=4)
    latents = run(VAE.encode, photo(), config=linear)[0]
    np.testing.assert_array_equal(run(decode_tiled, latents, 16, 4, config=linear), run(VAE.decode, latents, config=linear))


@pytest.mark.parametrize(("size", "overlap"), [((48, 52), 0), ((64, 96), 32), ((200, 300), 16), ((100, 44), 44)])
def test_tiles_cover_a_picture_once(size, overlap):
    tiles = plan_tiles(size, TILE, overlap, CONFIG)
    total = np.zeros(size)
    for (top, left), rows, columns in zip(*tiles, strict=True):
        assert top % 4 == left % 4 == 0
        total[top : top + len(rows), left : left + len(columns)] += np.outer(rows, columns)
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_wrong_tiles():
    for tile, overlap in ((46, 8), (48, 6), (48, 48), (48, -4), (0, 0)):
        with pytest.raises(UserError, match="multiples of 4, and less overlap"):
            decode_tiled(VAE(VAEConfig((), latent_channels=4, patch=4), nnx.Rngs(0)), whole()[0], tile, overlap)
    with pytest.raises(UserError, match="multiples of 4"):
        run(encode_tiled, photo()[:, :, :90], TILE, OVERLAP)
