"""Motion metrics on made-up movement: known speed, locked and unlocked beats, any size and rate."""

import numpy as np
import pytest

from champ_jax.infer.photo import standing_body
from champ_jax.metrics import beats as scores_of_beats
from champ_jax.metrics import motion
from champ_jax.pose.normalise import anchor


def _swaying(fps, seconds, rate, size=(96, 96), reach=0.2):
    """A body that sways sideways `rate` times a second: it stops, at either end, at multiples of half a period."""
    keypoints, confidence = standing_body(size)
    time = np.arange(int(fps * seconds)) / fps
    torso = float(np.asarray(anchor(keypoints, confidence).torso))
    sway = reach * torso * np.cos(2 * np.pi * rate * time)
    moved = keypoints[None] + np.stack([sway, np.zeros_like(sway)], -1)[:, None]
    return moved.astype(np.float32), np.repeat(confidence[None], len(time), 0)


def test_energy_is_speed_in_torsos_whatever_the_size_and_rate():
    expected = 4 * 0.2 * 1.0  # a sway crosses its reach four times
    for fps, size in ((24, (96, 96)), (60, (96, 96)), (24, (512, 512))):
        assert motion.motion_energy(*_swaying(fps, 8, 1.0, size), fps) == pytest.approx(expected, rel=0.03)
    keypoints, confidence = _swaying(24, 2, 1.0, reach=0)
    assert motion.motion_energy(keypoints, confidence, 24) == 0


@pytest.mark.parametrize("fps", [12, 24, 25, 30, 60])
def test_movement_locked_to_the_beat_scores_high(fps):
    """Stops at every half second, as does a song at 120 bpm."""
    beats = np.arange(1, 20) * 0.5
    stops = scores_of_beats.motion_beats(motion.body_speed(*_swaying(fps, 10, 1.0), fps), fps)
    assert scores_of_beats.alignment_corrected(stops, beats) > 0.6
    late = scores_of_beats.alignment_corrected(stops, beats + 0.25)
    assert late < 0, "stops half way between beats are worse than chance"


def test_movement_that_ignores_the_beat_scores_about_zero():
    rng = np.random.default_rng(0)
    beats = np.arange(1, 40) * 0.5
    scores = [scores_of_beats.alignment_corrected(np.sort(rng.uniform(0, 20, 45)), beats) for _ in range(50)]
    assert abs(np.mean(scores)) < 0.03


def test_standing_still_is_no_beat():
    assert scores_of_beats.alignment(np.zeros(0), np.arange(5.0)) == 0
    assert scores_of_beats.alignment_corrected(np.zeros(0), np.arange(5.0)) == 0


@pytest.mark.parametrize("fps", [24, 25, 30, 60])
def test_noise_scores_zero_at_every_rate(fps):
    """Also jitter around one pose, which the uncorrected score rates as high as published systems."""
    rng = np.random.default_rng(1)
    beats = np.arange(1, 38) * 0.5
    scores, plain = [], []
    for _ in range(12):
        keypoints, confidence = _swaying(fps, 20, 1.0, reach=0)
        stops = scores_of_beats.motion_beats(motion.body_speed(keypoints + rng.normal(0, 0.05, keypoints.shape), confidence, fps), fps)
        scores.append(scores_of_beats.alignment_corrected(stops, beats))
        plain.append(scores_of_beats.alignment(stops, beats))
    assert abs(np.mean(scores)) < 0.05
    assert np.mean(plain) > 0.2


def test_the_two_published_forms_differ_in_what_they_count():
    music, movement = np.arange(8.0), np.array([2.0, 5.0])
    assert scores_of_beats.alignment(movement, music) == pytest.approx(2 / 8, abs=1e-6)
    assert scores_of_beats.alignment_of_motion(movement, music) == pytest.approx(1.0)


def test_a_frozen_dance_is_called_frozen():
    moving, still = _swaying(24, 4, 1.0), _swaying(24, 4, 1.0, reach=0.001)
    real = motion.motion_energy(*moving, 24)
    assert motion.energy_ratio(motion.motion_energy(*still, 24), real)[1]
    assert motion.energy_ratio(real, real) == (pytest.approx(1.0), False)


def test_jerk_is_that_of_a_sine_and_grows_with_jitter():
    keypoints, confidence = _swaying(60, 4, 1.0)
    mean_of_sine = 0.2 * (2 * np.pi) ** 3 * 2 / np.pi
    assert motion.jerk(keypoints, confidence, 60) == pytest.approx(mean_of_sine, rel=0.02)
    noisy = keypoints + np.random.default_rng(0).normal(0, 0.2, keypoints.shape)
    assert motion.jerk(noisy, confidence, 60) > 10 * mean_of_sine
