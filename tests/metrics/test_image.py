"""Image metrics against scikit-image, against themselves with a full mask, and identity at its two ends."""

import dm_pix
import numpy as np
import pytest
from skimage.color import rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from champ_jax.metrics import colour
from champ_jax.metrics import image as metrics
from tests.metrics.real import recorded


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    truth = rng.random((3, 32, 40, 3)).astype(np.float32)
    return truth, np.clip(truth + 0.1 * rng.standard_normal(truth.shape), 0, 1).astype(np.float32)


def test_psnr_is_scikit_images(pair):
    truth, other = pair
    expected = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(*pair, strict=True)]
    np.testing.assert_allclose(metrics.psnr(truth, other), expected, atol=1e-4)


def test_ssim_is_scikit_images(pair):
    truth, other = pair
    settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=-1)
    expected = [structural_similarity(a, b, **settings) for a, b in zip(*pair, strict=True)]
    np.testing.assert_allclose(metrics.ssim(truth, other), expected, atol=5e-6)


def test_real_frames_as_scikit_image_and_dm_pix_see_them():
    truth, other = recorded()["frames"], recorded()["worse"]
    x, y = truth / 255.0, other / 255.0
    settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=-1)
    similar = [structural_similarity(a, b, **settings) for a, b in zip(x, y, strict=True)]
    noise = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(x, y, strict=True)]
    for one, two in ((truth, other), (x, y)):
        np.testing.assert_allclose(metrics.psnr(one, two), noise, atol=1e-4)
        np.testing.assert_allclose(metrics.ssim(one, two), similar, atol=5e-6)
        np.testing.assert_allclose(metrics.l1(one, two), np.abs(x - y).mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(metrics.ssim(truth, other), dm_pix.ssim(x.astype(np.float32), y.astype(np.float32)), atol=5e-6)


def test_ms_ssim_is_pytorch_msssims():
    np.testing.assert_allclose(metrics.ms_ssim(recorded()["frames"], recorded()["worse"]), recorded()["ms_ssim"], atol=1e-5)
    small = recorded()["frames"][:, :175]
    assert np.isnan(metrics.ms_ssim(small, small)).all()


def test_identical_frames_are_perfect():
    frames = recorded()["frames"]
    assert np.isinf(metrics.psnr(frames, frames)).all() and not metrics.l1(frames, frames).any()
    np.testing.assert_allclose(metrics.ssim(frames, frames), 1, atol=1e-6)
    np.testing.assert_allclose(metrics.ms_ssim(frames, frames), 1, atol=1e-6)


def test_what_cannot_be_compared_is_refused():
    frames = recorded()["frames"]
    with pytest.raises(ValueError, match="cannot be compared"):
        metrics.psnr(frames, frames[:, :100])
    with pytest.raises(ValueError, match="nothing to compare"):
        metrics.psnr(frames, frames[:2])
    with pytest.raises(ValueError, match="11 pixels"):
        metrics.ssim(frames[:, :10], frames[:, :10])


def test_a_full_mask_changes_nothing(pair):
    mask = np.ones(pair[0].shape[:3])
    np.testing.assert_allclose(metrics.masked_psnr(*pair, mask), metrics.psnr(*pair), rtol=1e-5)
    np.testing.assert_allclose(metrics.masked_ssim(*pair, mask), metrics.ssim(*pair), rtol=1e-5)


def test_nothing_outside_the_mask_counts(pair):
    truth, other = pair
    mask = np.zeros(truth.shape[:3])
    mask[:, 8:24, 10:30] = 1
    spoilt = np.where(mask[..., None] > 0, other, 1 - other)
    np.testing.assert_allclose(metrics.masked_psnr(truth, spoilt, mask), metrics.masked_psnr(truth, other, mask))


def test_identical_frames_and_empty_masks_stay_out_of_the_mean(pair):
    truth, other = pair
    same = np.concatenate([truth[:1], other[1:]])
    values = metrics.psnr(truth, same)
    assert np.isinf(values[0]) and metrics.mean_finite(values) == pytest.approx(np.mean(values[1:]))
    assert np.isnan(metrics.masked_psnr(truth, other, np.zeros(truth.shape[:3]))).all()
    assert np.isnan(metrics.mean_finite([np.inf, np.nan]))


def test_lab_is_scikit_images(pair):
    np.testing.assert_allclose(colour.srgb_to_lab(pair[0]), rgb2lab(pair[0]), atol=2e-2)


def _people(rng, people=8, frames=6, regions=3):
    """Frames [P,F,H,W,3] of people who are three bands of their own colours, and the bands' numbers [F,H,W]."""
    colours = rng.random((people, regions, 3)).astype(np.float32)
    labels = np.full((frames, 36, 20), -1)
    for region in range(regions):
        labels[:, 12 * region : 12 * (region + 1), 4:16] = region
    video = np.where(labels[None, ..., None] >= 0, colours[:, labels.clip(0)], 0.5)
    return video.astype(np.float32), labels


def test_truth_has_its_own_identity_and_a_colour_blind_output_nobodys():
    rng = np.random.default_rng(1)
    video, labels = _people(rng)
    colours = np.stack([colour.region_colours(frames, labels, 3) for frames in video])
    gallery = colours[:, 0]
    noisy = np.clip(video + 0.05 * rng.standard_normal(video.shape), 0, 1)
    right = [colour.identity_top1(colour.region_colours(f, labels, 3), gallery, i).mean() for i, f in enumerate(noisy)]
    assert np.mean(right) == 1
    grey = np.broadcast_to(colours.mean(0), colours.shape)
    assert np.mean([colour.identity_top1(c, gallery, i).mean() for i, c in enumerate(grey)]) == 1 / 8


def test_hidden_regions_do_not_count_and_an_invisible_person_is_wrong():
    video, labels = _people(np.random.default_rng(2))
    gallery = np.stack([colour.region_colours(frames, labels, 3)[0] for frames in video])
    gallery[:, 2] = np.nan
    legs_hidden = np.where(labels == 2, -1, labels)
    colours = colour.region_colours(video[3], legs_hidden, 3)
    assert np.isnan(colours[:, 2]).all()
    assert colour.identity_top1(colours, gallery, 3).all()
    assert not colour.identity_top1(np.full_like(colours, np.nan), gallery, 3).any()
