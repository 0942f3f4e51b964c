"""Features of arriving sound: what comes in which blocks does not matter, and settled sound is described as in the whole song."""

import numpy as np
import pytest

from champ_jax.audio.features import FEATURE_RATE, features
from champ_jax.audio.streaming import SPARE, MusicStream, steady_beats
from champ_jax.errors import UserError

FPS, FRAMES = 24, 96


def clicks(seconds, rate=FEATURE_RATE, period=0.5):
    """A tone that swells, and a click every `period` seconds from 0.25 on."""
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * rate)) / rate
    sound = 0.05 * np.sin(2 * np.pi * 220 * time)
    for beat in np.arange(0.25, seconds - 0.05, period):
        start = round(beat * rate)
        sound[start : start + rate // 50] += 0.5 * rng.standard_normal(rate // 50)
    return sound.astype(np.float32)


def fed(sound, block, rate=FEATURE_RATE):
    stream = MusicStream(rate, FPS, frames=FRAMES)
    for start in range(0, len(sound), block):
        stream.push(sound[start : start + block])
    return stream


def test_blocks_do_not_matter():
    sound = clicks(6)
    one, other = fed(sound, 1009), fed(sound, 24_000)
    assert one.ready == other.ready == 6 * FPS
    np.testing.assert_array_equal(one.window(140), other.window(140))


def test_agrees_with_the_whole_song():
    sound = clicks(8)
    whole = features(sound, FEATURE_RATE, FPS, beats=np.arange(0.25, 8, 0.5))
    window = fed(sound, 5000).window(8 * FPS - 12)
    mine, theirs = window[20:], whole[8 * FPS - 12 - FRAMES + 20 : 8 * FPS - 12]
    np.testing.assert_allclose(mine[:-3, :148], theirs[:-3, :148], atol=0.02)  # log-mel, MFCC, slopes, chroma
    phase = (mine[:, 188:190] * theirs[:, 188:190]).sum(-1)  # cosine of the difference
    assert phase.min() > 0.8


def test_before_the_first_sample_there_is_silence():
    window = fed(clicks(1), 1000).window(24)
    assert window.shape == (FRAMES, 192) and np.isfinite(window).all()
    assert not window[: FRAMES - 26, 191].any() and window[-20:, 191].all()
    assert np.abs(window[:, 161:165]).max() < 20  # flux is not divided by that of silence
    assert np.isfinite(fed(np.zeros(24_000, np.float32), 1000).window(24)).all()


def test_other_rates_are_resampled():
    mine, theirs = (fed(clicks(5, rate), 777, rate).window(100)[30:-4, :96] for rate in (16_000, FEATURE_RATE))
    assert np.abs(mine[:, :60] - theirs[:, :60]).mean() < 0.1


def test_stacked_features_hold_their_neighbours():
    stream = MusicStream(FEATURE_RATE, FPS, "stack4800", FRAMES)
    stream.push(clicks(2))
    window = stream.window(48)
    np.testing.assert_array_equal(window[50, :192], window[38, 12 * 192 : 13 * 192])


def test_memory_is_bounded():
    stream = MusicStream(FEATURE_RATE, FPS, frames=FRAMES)
    for _ in range(30):
        stream.push(np.zeros(FEATURE_RATE, np.float32))
    assert len(stream._ring) == FRAMES * 1000 + SPARE * FEATURE_RATE


@pytest.mark.parametrize("rate", [0, -1, 22_050.5, 4_000, float("nan")])
def test_wrong_rate(rate):
    with pytest.raises(UserError, match="samples a second"):
        MusicStream(rate, FPS)


def test_beats_go_on_past_the_last_sure_one():
    beats = np.arange(0.3, 9.0, 0.5)
    wrong = np.append(beats[beats < 8.9], [9.35, 9.6])  # the tracker's newest ones
    steady = steady_beats(wrong, 10.0)
    np.testing.assert_allclose(steady, np.arange(0.3, 0.3 + 0.5 * len(steady), 0.5), atol=1e-6)
    assert steady[-1] >= 10.0
    assert len(steady_beats(np.array([1.0, 2.0]), 10.0)) == 2
