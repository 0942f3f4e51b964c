"""The CLIP tower and its preprocessing; its numbers are checked in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from champ_jax.errors import UserError
from champ_jax.models.animator import split
from champ_jax.models.clip import CLIP, MEAN, STD, CLIPConfig, clip_pixels, clip_resize

TINY = CLIPConfig(hidden=8, intermediate=16, layers=1, heads=2, patch=4, image_size=8, projection=6)


def test_full_size_is_vit_l14():
    _, shapes = split(nnx.eval_shape(lambda: CLIP(CLIPConfig(), nnx.Rngs(0))))
    leaves = jax.tree.leaves(shapes)
    assert sum(x.size for x in leaves) == 303_966_208
    assert len(leaves) == 392


def test_embeds_each_image_alone():
    clip = CLIP(TINY, nnx.Rngs(0))
    pixels = np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)
    embeds = clip(pixels)
    assert embeds.shape == (3, 6)
    np.testing.assert_allclose(embeds[1:2], clip(pixels[1:2]), atol=1e-5)
    with pytest.raises(UserError, match="CLIP pixels"):
        clip(pixels[:, :4])


def test_modes_of_preprocessing():
    """A wide image is squeezed in inference and cropped in training."""
    image = np.zeros((1, 20, 40, 3), np.uint8)
    image[:, :, :10], image[:, :, 30:] = 255, 255
    squeezed, cropped = (clip_pixels(image, mode, 16) for mode in ("inference", "train"))
    assert squeezed.shape == cropped.shape == (1, 16, 16, 3)
    black = (0 - np.float32(MEAN)) / np.float32(STD)
    np.testing.assert_allclose(cropped[0, 8, 4:12], np.broadcast_to(black, (8, 3)), rtol=1e-5)
    assert squeezed[0, 8, 0, 0] > 1 and squeezed[0, 8, 15, 0] > 1
    with pytest.raises(UserError, match="inference or train"):
        clip_pixels(image, "test")


@pytest.mark.parametrize("size", [(16, 16), (30, 45), (11, 13)])
def test_the_device_agrees_with_the_host(size):
    """Wide and square images: Pillow 13 takes tall ones in the other order of axes."""
    images = np.random.default_rng(1).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    levels = np.abs(np.asarray(clip_resize(jnp.asarray(images), 16)) - clip_pixels(images, size=16)) * np.float32(STD) * 255
    assert levels.max() < 1.01 and np.mean(levels > 0.5) < 0.02


def test_unknown_activation():
    with pytest.raises(UserError, match="activation"):
        CLIPConfig(activation="relu")
