"""A whole song's dance: seams, start, bones, frame."""

import jax
import numpy as np
import pytest
from flax import nnx

from champ_jax.errors import UserError
from champ_jax.infer.chain import chain_windows
from champ_jax.infer.music import dance_keypoints
from champ_jax.models.m2p import M2P
from champ_jax.pose import normalise as norm
from champ_jax.pose import skeleton as sk
from tests.models.m2p_batch import TINY
from tests.pose.person import person

FRAMES = 150


def anatomy():
    """The test person's pose as M2P stores mean poses: part-relative torso units, [2 J]."""
    keypoints, confidence = (np.asarray(x)[None] for x in person())
    torso = norm.to_torso(keypoints[:, None], norm.anchor(keypoints, confidence))
    return norm.split(torso, confidence[:, None])[0].reshape(-1)


@pytest.fixture(scope="module")
def dancing():
    """(music, keypoints, confidence) of a random network."""
    params = nnx.to_pure_dict(nnx.state(M2P(TINY, nnx.Rngs(0))))
    params["head"] = jax.tree.map(lambda x: 0.3 * x, params["head"])
    params["head"]["confidence"]["bias"] += 5.0  # all joints are sure, so all bones are held to the photo's
    params["statistics"]["pose_mean"] = anatomy()  # a random network moves around it, so its bones are a body's
    time = np.arange(FRAMES)[:, None] / 24
    music = np.sin(2 * np.pi * time * np.linspace(0.3, 1.5, 12)).astype(np.float32)
    run = lambda music: dance_keypoints(TINY, params, music, *person(), np.zeros(8, np.float32), (96, 96), 24.0, 48)  # noqa: E731
    return run, music, *run(music)[:2]


def jerk(keypoints):
    return np.linalg.norm(np.diff(keypoints[:, :18], n=3, axis=0), axis=-1).mean(-1)


def test_shape_start_and_frame(dancing):
    _, _, keypoints, confidence = dancing
    assert keypoints.shape == (FRAMES, sk.J, 2) and keypoints.dtype == np.float32
    assert confidence.shape == (FRAMES, sk.J) and confidence.min() >= 0 and confidence.max() <= 1
    np.testing.assert_allclose(keypoints[0], person()[0], atol=0.5)
    assert keypoints[:, :24].min() >= 0 and keypoints[:, :24].max() <= 96


def test_bones_are_the_photos(dancing):
    _, _, keypoints, _ = dancing
    reference = person()[0]
    thigh = np.percentile(np.linalg.norm(keypoints[30:, 9] - keypoints[30:, 8], axis=-1), 90)
    assert thigh == pytest.approx(np.linalg.norm(reference[9] - reference[8]), rel=0.15)


def test_windows_leave_no_seam():
    """Windows that each drift their own way, as a model's do, join as smoothly as they run."""
    draw = np.random.default_rng(0)
    music = np.zeros((300, 1), np.float32)
    time = np.arange(96) / 24

    def run(music, pose, confidence):
        waves = np.sin(2 * np.pi * (time[:, None] * draw.uniform(0.5, 1.5, 134) + draw.random(134)))
        return pose + 5 * (waves - waves[:1])[..., None], np.ones((len(music), 134))

    keypoints, _ = chain_windows(run, music, *person(), 96, 48)
    curve = jerk(keypoints)
    seams = np.zeros(len(curve), bool)
    for start in range(48, 253, 48):
        for join in (start, start + 48):
            seams[join - 4 : join + 2] = True
    assert curve[seams].mean() / curve[~seams].mean() < 1.3


def test_the_next_window_starts_in_the_pose_of_the_last():
    starts = []

    def run(music, pose, confidence):
        starts.append(pose)
        return pose + np.arange(len(music))[:, None, None], np.ones((len(music), 134))

    keypoints, _ = chain_windows(run, np.zeros((20, 1)), *person(), 8, 4)
    np.testing.assert_allclose(starts[1], person()[0] + 4, atol=1e-4)
    np.testing.assert_allclose(np.diff(keypoints, axis=0), 1, atol=1e-4)


def test_another_song_is_another_dance_and_the_same_is_the_same(dancing):
    run, music, keypoints, _ = dancing
    np.testing.assert_array_equal(run(music)[0], keypoints)
    assert np.abs(run(music[::-1])[0] - keypoints).max() > 0.1


def test_a_song_shorter_than_a_window(dancing):
    run, music, _, _ = dancing
    assert run(music[:1])[0].shape == (1, sk.J, 2)


def test_of_a_short_song_the_last_frame_stays():
    """M2P, and an exported graph of it, takes whole windows only."""
    heard = []

    def run(music, pose, confidence):
        heard.append(music[:, 0])
        return np.tile(pose, (len(music), 1, 1)), np.ones((len(music), 134))

    keypoints, confidence = chain_windows(run, np.arange(3.0)[:, None], *person(), 8, 4)
    np.testing.assert_array_equal(heard, [[0, 1, 2, 2, 2, 2, 2, 2]])
    assert keypoints.shape == (3, sk.J, 2) and confidence.shape == (3, sk.J)


def test_a_photo_without_a_body_is_refused():
    keypoints, confidence = person()
    with pytest.raises(UserError, match="no shoulders"):
        dance_keypoints(TINY, {}, np.zeros((4, 12), np.float32), keypoints, 0 * confidence, np.zeros(8), (96, 96), 24.0, 96)
