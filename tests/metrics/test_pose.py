"""Pose scores at their edges: equal poses, joints that are missing on either side, COCO's own arithmetic."""

import numpy as np
import pytest

from champ_jax.infer.photo import standing_body
from champ_jax.metrics import pose
from champ_jax.pose.skeleton import BODY


@pytest.fixture
def truth():
    keypoints, confidence = standing_body((200, 200))
    return np.repeat(keypoints[None].astype(np.float32), 5, 0), np.repeat(confidence[None], 5, 0)


def test_the_true_pose_is_perfect(truth):
    apart = pose.errors(*truth, *truth)
    assert pose.mpjpe(apart) == 0 and pose.pck(apart, 0.05) == 1
    similarity = pose.oks(*truth, *truth)
    assert (similarity == 1).all() and pose.oks_precision(similarity) == 1


def test_a_shift_is_measured_in_body_heights(truth):
    keypoints, confidence = truth
    height = float(pose.body_height(*truth)[0])
    moved = keypoints + np.float32([0.07 * height, 0])
    apart = pose.errors(moved, confidence, *truth)
    assert pose.mpjpe(apart) == pytest.approx(0.07, rel=1e-4)
    assert pose.pck(apart, 0.05) == 0 and pose.pck(apart, 0.1) == 1
    values = [pose.mpjpe(pose.errors(keypoints + s * np.float32([height, 0]), confidence, *truth)) for s in (0, 0.01, 0.1)]
    assert values == sorted(values)


def test_a_missing_joint_is_a_miss_and_a_hidden_one_does_not_count(truth):
    keypoints, confidence = truth
    lost = confidence.copy()
    lost[:, 4] = 0
    assert pose.pck(pose.errors(keypoints, lost, *truth), 0.05) == pytest.approx(17 / 18)
    assert pose.pck(pose.errors(keypoints, confidence, keypoints, lost), 0.05) == 1
    assert pose.oks(keypoints, lost, *truth)[0] == pytest.approx(17 / 18)
    nobody = np.zeros_like(confidence)
    assert np.isnan(pose.pck(pose.errors(*truth, keypoints, nobody), 0.05)) and np.isnan(pose.oks(*truth, keypoints, nobody)).all()
    assert np.isnan(pose.oks_precision(np.full(3, np.nan)))


def test_oks_is_cocos(truth):
    keypoints, confidence = truth
    moved = keypoints + np.random.default_rng(0).normal(0, 3, keypoints.shape).astype(np.float32)
    points, others = keypoints[0, BODY].astype(float), moved[0, BODY].astype(float)
    area = np.prod(points.max(0) - points.min(0))
    variance = pose.SIGMAS**2
    expected = np.mean(np.exp(-((points - others) ** 2).sum(-1) / variance / area / 2))
    assert pose.oks(moved, confidence, *truth)[0] == pytest.approx(expected, rel=1e-5)
    assert pose.oks_precision(np.array([0.49, 0.5, 1.0])) == pytest.approx((0 + 0.1 + 1) / 3)
