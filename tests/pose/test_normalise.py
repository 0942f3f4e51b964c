"""Torso units: what they are, and that nothing is lost on the way there and back."""

import numpy as np
import pytest

from champ_jax.pose import normalise as norm
from champ_jax.pose import skeleton as sk
from tests.pose.person import dance, person


@pytest.mark.parametrize("size", [(96, 96), (360, 640)])
def test_round_trip(size):
    keypoints, confidence = dance(size=size)
    reference = person(size)
    there, info = norm.normalise(keypoints, confidence, *reference)
    back = norm.denormalise(there, info)
    assert np.abs(np.asarray(back) - keypoints).max() < 1e-4 * size[0]
    again = norm.compose(*norm.split(there, confidence))
    np.testing.assert_allclose(again, there, atol=1e-5)


def test_units_are_torsos_from_the_references_hips():
    keypoints, confidence = person((96, 200))
    there, info = norm.normalise(keypoints[None], confidence[None], keypoints, confidence)
    np.testing.assert_allclose(there[0, sk.NECK], (0, -1), atol=1e-5)
    np.testing.assert_allclose(there[0, [sk.RIGHT_HIP, sk.LEFT_HIP]].mean(0), (0, 0), atol=1e-5)
    assert info.torso == pytest.approx(0.2 * 96, rel=1e-5)


def test_frame_size_and_place_cancel_out():
    small, confidence = person((96, 96))
    large, _ = person((360, 640))
    there = [norm.normalise(k[None], confidence[None], k, confidence)[0] for k in (small, large)]
    np.testing.assert_allclose(*there, atol=1e-4)


def test_hidden_hips_of_the_reference():
    keypoints, confidence = person()
    confidence[[sk.RIGHT_HIP, sk.LEFT_HIP]] = 0
    info = norm.anchor(keypoints, confidence)
    shoulders = 0.72 * 0.2 * 96
    assert info.torso == pytest.approx(shoulders / 0.7, rel=1e-3)
    np.testing.assert_allclose(info.root, keypoints[sk.NECK] + (0, info.torso), rtol=1e-5)


def test_nobody_there_is_still_finite():
    info = norm.anchor(np.zeros((sk.J, 2), np.float32), np.zeros(sk.J, np.float32))
    assert np.isfinite(info.root).all() and info.torso >= 1


def test_impute_interpolates_short_gaps_and_leaves_long_ones():
    keypoints = np.zeros((30, sk.J, 2), np.float32)
    keypoints[..., 0] = np.arange(30)[:, None]
    confidence = np.ones((30, sk.J), np.float32)
    confidence[5:9, 0] = confidence[5:20, 1] = confidence[:3, 2] = 0
    hidden = np.where(confidence[..., None] > 0, keypoints, -7)
    filled = np.asarray(norm.impute(hidden, confidence))
    np.testing.assert_allclose(filled[:, 0, 0], np.arange(30))
    assert (filled[5:20, 1] == -7).all()
    np.testing.assert_allclose(filled[:3, 2, 0], 3)


def test_root_of_frames_with_hidden_hips_follows_the_neck():
    keypoints = np.tile(person()[0] / 19.2, (6, 1, 1))
    keypoints[3:] += (1, 0)
    confidence = np.ones((6, sk.J), np.float32)
    confidence[[0, 4], sk.LEFT_HIP] = 0
    root = np.asarray(norm.roots(keypoints, confidence))
    np.testing.assert_allclose(root, np.asarray(norm.roots(keypoints)), atol=1e-5)
