"""One person through a video: the right one, without lag, with gaps left as gaps; and where one shot ends and another begins."""

import numpy as np
import pytest

from champ_jax.data.estimate.people import People, boxes_of
from champ_jax.data.estimate.tracks import follow, smoothed
from champ_jax.data.prepare.shots import Shots
from champ_jax.pose.skeleton import J

SIZE = (480, 640)


def body(x: float, y: float = 240, height: float = 300, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).uniform(-0.5, 0.5, (J, 2)) * (height / 3, height)
    return (points + (x, y)).astype(np.float32)


def together(*bodies: np.ndarray) -> People:
    if not bodies:
        return People.nobody()
    keypoints = np.stack(bodies)
    confidence = np.full(keypoints.shape[:2], 0.9, np.float32)
    return People(keypoints, confidence, boxes_of(keypoints, confidence, 0.3))


def no_cuts(count: int) -> np.ndarray:
    return np.arange(count) == 0


def test_the_largest_and_most_central_is_followed_whatever_the_order():
    people = []
    for frame in range(30):
        main, other = body(320 + frame), body(60, height=220, seed=1)
        people.append(together(*((main, other) if frame % 3 else (other, main))))
    track = follow(people, no_cuts(30), SIZE, smooth=False)
    np.testing.assert_allclose(track.keypoints[:, :, 0].mean(1) - np.arange(30), track.keypoints[0, :, 0].mean(), atol=1e-3)
    assert track.present.all() and (track.shots == 0).all()
    second = follow(people, no_cuts(30), SIZE, person=1, smooth=False)
    assert second.keypoints[:, :, 0].mean() < 100
    assert not follow(people, no_cuts(30), SIZE, person=2).present.any()


def test_two_who_cross_stay_themselves():
    people = [together(body(200 + 8 * f, y=230, seed=0), body(440 - 8 * f, y=270, height=260, seed=1)) for f in range(30)]
    people = [People(*(field[:: 1 if f % 2 else -1] for field in found)) for f, found in enumerate(people)]
    track = follow(people, no_cuts(30), SIZE, smooth=False)
    assert np.abs(np.diff(track.keypoints[:, 0, 0])).max() == pytest.approx(8, abs=0.1)


def test_a_gap_stays_a_gap_and_the_person_the_same():
    people = [together() if 10 <= f < 14 else together(body(300 + f), body(80, height=280, seed=1)) for f in range(30)]
    track = follow(people, no_cuts(30), SIZE)
    assert track.present.tolist() == [not 10 <= f < 14 for f in range(30)]
    assert (track.confidence[10:14] == 0).all() and (track.keypoints[10:14] == 0).all() and (track.boxes[10:14] == 0).all()
    assert (track.keypoints[14:, :, 0].mean(1) > 200).all()


def test_shots_have_their_own_main_person():
    people = [together(body(300 if f < 10 else 200)) for f in range(20)]
    cuts = np.isin(np.arange(20), (0, 10))
    track = follow(people, cuts, SIZE)
    assert track.shots.tolist() == [0] * 10 + [1] * 10
    assert np.abs(track.keypoints[9, :, 0].mean() - track.keypoints[10, :, 0].mean()) > 90  # not blended over the cut


def wave(frames: int = 90) -> np.ndarray:
    t = np.arange(frames) / 30
    return np.broadcast_to(np.stack([200 + 60 * np.sin(2 * np.pi * t), 200 + 20 * t], -1)[:, None], (frames, J, 2)).astype(np.float32)


def test_smoothing_takes_noise_and_leaves_motion():
    true = wave()
    noisy = true + np.random.default_rng(0).normal(0, 1, true.shape).astype(np.float32)
    result = smoothed(noisy, np.ones(true.shape[:2], np.float32))
    before, after = np.abs(noisy - true).mean(), np.abs(result - true).mean()
    assert after < 0.75 * before
    assert np.abs(smoothed(true, np.ones(true.shape[:2])) - true).max() < 0.6
    lags = [np.abs(result[5 + lag : 80 + lag] - true[5:80]).mean() for lag in (-1, 0, 1)]
    assert lags[1] == min(lags)


def test_accents_stay_on_their_frame():
    """A hand that flies up for a frame or two, and a jump from one place to another."""
    true = wave()
    true = true.copy()
    true[40, 4] += (0, -80)
    true[60:, 7] += (50, 0)
    noisy = true + np.random.default_rng(0).normal(0, 0.5, true.shape).astype(np.float32)
    result = smoothed(noisy, np.ones(true.shape[:2], np.float32))
    assert result[:, 4, 1].argmin() == 40 and abs(result[40, 4, 1] - true[40, 4, 1]) < 3
    assert np.abs(result[:, 7] - true[:, 7]).max() < 3


def test_joints_that_are_not_seen_neither_move_nor_count():
    points, confidence = wave().copy(), np.ones((90, J), np.float32)
    points[30], confidence[30] = 0, 0
    result = smoothed(points, confidence)
    assert (result[30] == 0).all() and np.abs(result[29] - wave()[29]).max() < 1


def cuts_of(frames) -> list[int]:
    shots = Shots()
    for frame in frames:
        shots.add(frame) if frame is not None else shots.add_gap()
    return np.flatnonzero(shots.cuts()).tolist()


def scene(seed: int) -> np.ndarray:
    import cv2

    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC)


def test_cuts_and_what_is_none():
    one, other = scene(0), scene(1)
    assert cuts_of([one] * 10 + [other] * 10 + [one] * 5) == [0, 10, 20]
    assert cuts_of([np.roll(one, 12 * f, 1) for f in range(40)]) == [0]  # a pan
    flash = np.clip(one.astype(int) + 150, 0, 255).astype(np.uint8)
    assert cuts_of([one] * 10 + [flash] + [one] * 10) == [0]
    fade = [(one * (1 - f / 20) + other * (f / 20)).astype(np.uint8) for f in range(21)]
    assert cuts_of(fade) == [0]
    assert cuts_of([one] * 3 + [None] * 2 + [one] * 3) == [0, 3, 5]
