"""Beat scores against mir_eval and the published code, the lag of a shifted song, and what chance gives."""

import mir_eval
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.signal import argrelextrema

from champ_jax.metrics import beats


@pytest.mark.parametrize("seed", range(6))
def test_f1_is_mir_evals(seed):
    rng = np.random.default_rng(seed)
    music = np.cumsum(rng.uniform(0.3, 0.6, 40))
    movement = np.sort(np.concatenate([music[::2] + rng.normal(0, 0.06, 20), rng.uniform(0, 18, 15)]))
    assert beats.f1(movement, music) == pytest.approx(mir_eval.beat.f_measure(music, movement), abs=1e-12)


def test_f1_at_its_ends():
    music = np.arange(1, 9) * 0.5
    assert beats.f1(music, music) == 1 and beats.f1(music + 0.2, music) == 0 and beats.f1(np.zeros(0), music) == 0
    # One stop may not stand for two beats.
    assert beats.f1(np.array([1.03]), np.array([1.0, 1.06])) == pytest.approx(2 / 3)


def positions(fps, seconds=12.0):
    """Joints [F,5,2] that swing with the beat of half a second, with a little noise."""
    time = np.arange(int(fps * seconds)) / fps
    rng = np.random.default_rng(0)
    swing = np.cos(2 * np.pi * time)[:, None, None] * rng.uniform(0.5, 1, (1, 5, 2))
    return swing + rng.normal(0, 0.005, swing.shape)


def test_published_forms_are_the_published_code():
    """Bailando's utils/beat_align_score.py and POPDG's eval/calculate_beat_scores.py, loop by loop."""
    joints, music = positions(60), np.round(np.arange(1, 24) * 30.0)
    speed = np.mean(np.sqrt(np.sum((joints[1:] - joints[:-1]) ** 2, axis=2)), axis=1)
    stops = argrelextrema(gaussian_filter(speed, 5), np.less)[0]
    total = sum(np.exp(-np.min((stops - beat) ** 2) / 2 / 9) for beat in music)
    assert beats.alignment_bailando(joints, music) == pytest.approx(total / len(music), rel=1e-12)
    stops = argrelextrema(speed, np.less, order=10)[0]
    total = sum(np.exp(-np.min((music - stop) ** 2) / 2 / 9) for stop in stops)
    assert beats.alignment_fact(joints, music) == pytest.approx(total / len(stops), rel=1e-12)


def test_the_curve_peaks_where_sound_and_picture_meet():
    music = np.arange(1, 40) * 0.5
    late = np.sort((music + 0.12) % 20)
    assert beats.peak_lag(late, music, 20.0) == pytest.approx(0.12, abs=0.02)
    curve = beats.shift_curve(late, music, 20.0, np.array([-0.25, 0.0, 0.12, 0.25]))
    assert curve.argmax() == 2 and curve[2] > 0.95
    assert np.isnan(beats.peak_lag(np.zeros(0), music, 20.0)) and np.isnan(beats.alignment_corrected(music, music[:1]))


def test_more_jitter_of_the_stops_is_worse():
    music = np.arange(1, 80) * 0.5
    noise = np.random.default_rng(0).normal(size=len(music))
    for score in (beats.alignment, beats.alignment_of_motion, beats.alignment_corrected, beats.f1):
        values = [score(music + strength * noise, music) for strength in (0, 0.02, 0.05, 0.1)]
        assert values == sorted(values, reverse=True) and values[0] == pytest.approx(1)
