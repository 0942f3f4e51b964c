"""Published numbers to the digit: computed here as DisCo's script does, faults included."""

import cv2
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from champ_jax.metrics import disco, image
from tests.metrics.real import recorded


def published(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """(PSNR, L1, SSIM) of two frames: DisCo's three formulas, on uint8 arrays as they come from a file."""
    square = np.mean((one - other) ** 2)
    psnr = 100.0 if square == 0 else 20 * np.log10(255.0 / np.sqrt(square))
    l1 = np.absolute(one.astype("float") - other.astype("float")) / float(one.shape[0] * one.shape[1])
    greys = (cv2.cvtColor(frame[..., ::-1], cv2.COLOR_BGR2GRAY) for frame in (one, other))
    return psnr, l1.mean(), structural_similarity(*greys)


@pytest.mark.parametrize("what", ["real", "noise"])
def test_to_the_digit(what):
    truth, other = recorded()["frames"], recorded()["worse"]
    if what == "noise":
        truth, other = np.random.default_rng(0).integers(0, 256, (2, 2, 40, 56, 3), np.uint8)
    expected = np.array([published(one, two) for one, two in zip(truth, other)]).T
    np.testing.assert_array_equal(disco.psnr(truth, other), expected[0])
    np.testing.assert_allclose(disco.l1(truth, other), expected[1], rtol=1e-14)
    np.testing.assert_allclose(disco.ssim(truth, other), expected[2], atol=1e-12)


def test_unrelated_images_look_good_and_black_is_nearly_white():
    x, y = np.random.default_rng(0).integers(0, 256, (2, 4, 256, 256, 3), np.uint8)
    assert disco.psnr(x, y).mean() == pytest.approx(27.9, abs=0.05)
    assert image.psnr(x, y).mean() == pytest.approx(7.74, abs=0.05)
    black, white = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 255, np.uint8)
    assert disco.psnr(black, white)[0] == pytest.approx(48.13, abs=0.01)
    assert disco.psnr(black, black)[0] == 100


def test_l1_falls_with_the_resolution():
    x, y = np.zeros((1, 64, 64, 3), np.uint8), np.full((1, 64, 64, 3), 10, np.uint8)
    assert disco.l1(x, y)[0] == pytest.approx(4 * disco.l1(x.repeat(2, 1).repeat(2, 2), y.repeat(2, 1).repeat(2, 2))[0])


def test_frames_of_another_size_are_scaled_and_floats_are_refused():
    x = np.zeros((1, 20, 30, 3), np.uint8)
    assert disco.resized(x, (10, 15)).shape == (1, 10, 15, 3) and disco.resized(x, (20, 30)) is x
    with pytest.raises(ValueError, match="uint8"):
        disco.psnr(x / 255, x)
