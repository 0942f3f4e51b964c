"""A dance on another person's bones, from that person's pose, inside the frame."""

import numpy as np

from champ_jax.pose import retarget as rt
from champ_jax.pose import skeleton as sk
from tests.pose.person import dance, person


def stretched(keypoints, factors):
    vectors, root = sk.bones(keypoints), sk.hips(keypoints)
    scaled = rt._rebuild((vectors * factors[:, None])[None], root[None], rt._fine(keypoints[None]), dict.fromkeys(sk.CENTRES, 1.0))
    return scaled[0]


def test_own_bones_change_nothing():
    keypoints, confidence = dance()
    moved = rt.retarget(keypoints, confidence, keypoints[0], confidence[0])
    np.testing.assert_allclose(moved, keypoints, atol=2e-2)


def test_bones_become_the_references_and_keep_their_directions():
    keypoints, confidence = dance()
    factors = np.full(24, 1.2)
    factors[[9, 10, 12, 13]] = 1.5
    reference = stretched(keypoints[0], factors)
    moved = rt.retarget(keypoints, confidence, reference, confidence[0])
    ratio = np.linalg.norm(sk.bones(moved), axis=-1) / np.linalg.norm(sk.bones(keypoints), axis=-1)
    np.testing.assert_allclose(ratio, np.tile(factors, (48, 1)), rtol=1e-2)
    before, after = (sk.bones(k) for k in (keypoints, moved))
    cosine = (before * after).sum(-1) / np.linalg.norm(before, axis=-1) / np.linalg.norm(after, axis=-1)
    assert cosine.min() > 0.9999
    np.testing.assert_allclose(sk.hips(moved)[0], sk.hips(reference), atol=1e-3)


def test_a_foreshortened_frame_does_not_shorten_the_arm():
    keypoints, confidence = dance()
    reference = keypoints[0].copy()
    keypoints[0, 3] = keypoints[0, 2] + 0.01
    ratios = rt.bone_ratios(keypoints, confidence, reference, confidence[0])
    np.testing.assert_allclose(ratios, 1, atol=0.05)


def test_bones_that_the_reference_hides_take_the_common_ratio():
    keypoints, confidence = dance()
    sure = confidence[0].copy()
    sure[[9, 10, 12, 13, *range(18, 24)]] = 0
    ratios = rt.bone_ratios(keypoints, confidence, stretched(keypoints[0], np.full(24, 2.0)), sure)
    np.testing.assert_allclose(ratios, 2, rtol=1e-3)


def test_start_is_the_photos_pose_and_fades():
    keypoints, confidence = dance()
    reference, sure = person()
    moved = rt.start_from(keypoints, reference, sure, fps=24)
    np.testing.assert_allclose(moved[0], reference, atol=1e-3)
    np.testing.assert_allclose(moved[24:], keypoints[24:], atol=1e-3)
    step = np.linalg.norm(np.diff(moved, axis=0), axis=-1).max()
    assert step < 0.08 * 96
    sure[sk.LEFT_WRIST] = 0
    hidden = rt.start_from(keypoints, reference, sure, fps=24)
    np.testing.assert_allclose(hidden[0, sk.LEFT_WRIST] - hidden[0, 6], keypoints[0, sk.LEFT_WRIST] - keypoints[0, 6], atol=1e-3)


def test_kept_inside_the_frame_smoothly():
    keypoints, confidence = dance(96)
    keypoints += (np.linspace(0, 80, 96)[:, None, None] * (1, 0)).astype(np.float32)
    moved = rt.keep_inside(keypoints, confidence, *person(), (96, 96), 24)
    assert moved[:, :24].max() <= 96 and moved[:, :24].min() >= 0
    untouched = keypoints[:8, :24, 0].max() < 90
    assert untouched and np.allclose(moved[:8], keypoints[:8], atol=1e-3)
    shift = (moved - keypoints)[:, 0, 0]
    assert np.abs(np.diff(shift, 2)).max() < 0.6


def test_a_photo_that_cuts_the_feet_off_may_keep_them_off():
    keypoints, confidence = dance()
    low = keypoints + np.float32([0, 30])
    reference = person()[0] + np.float32([0, 30])
    moved = rt.keep_inside(low, confidence, reference, person()[1], (96, 96), 24)
    assert moved[:, :24, 1].max() > 100
