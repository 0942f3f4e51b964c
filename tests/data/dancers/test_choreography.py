"""Warped motion: on the beat, at a plausible pace, and the same in every song of a style."""

import numpy as np
import pytest

from champ_jax.data.dancers.choreography import STYLE_MOTION, choreograph, loop_beats, warp
from champ_jax.data.dancers.mocap import load_motion
from champ_jax.data.dancers.songs import LEAD_IN, STYLES, Song
from champ_jax.metrics.beats import alignment_corrected, motion_beats


def _silent_song(style, tempo, bars=8):
    """The beats of a song without its sound."""
    beats = LEAD_IN + np.arange(4 * bars) * 60 / tempo
    audio = np.zeros(round((beats[-1] + 1) * 24_000), np.float32)
    return Song(audio, 24_000, beats, beats[::4], tempo, list(STYLES).index(style), style, style)


def _alignment(motion, song):
    steps = np.linalg.norm(np.diff(motion.positions(), axis=0), axis=-1).mean(1) * motion.fps
    return alignment_corrected(motion_beats(steps, motion.fps), song.beats_s)


@pytest.mark.parametrize("style", STYLES)
def test_accents_fall_on_the_beats(style):
    for tempo in STYLES[style].tempo:
        song = _silent_song(style, tempo)
        loop = load_motion(STYLE_MOTION[style], 24.0)
        dance = choreograph(loop, song, 24)
        assert len(dance) == round(len(song.audio) / song.rate * 24) and dance.fps == 24
        assert _alignment(dance, song) > 0.6
        assert _alignment(loop.resample(np.arange(len(dance)) / 24), song) < 0.4, "the capture alone is not on the beat"


@pytest.mark.parametrize("style", STYLES)
def test_the_warp_is_monotone_and_periodic(style):
    loop = load_motion(STYLE_MOTION[style], 24.0)
    beat = 60 / np.mean(STYLES[style].tempo)
    count = loop_beats(loop.duration, beat)
    assert 16 % count == 0
    to_motion = warp(loop, beat)
    position = np.linspace(0, 2 * count, 4001)
    pace = np.diff(to_motion(position)) / np.diff(position) / beat
    assert pace.min() > 0.4 and pace.max() < 2
    np.testing.assert_allclose(to_motion(position[:2000] + count), to_motion(position[:2000]) + loop.duration, atol=1e-9)


def test_place_in_the_phrase_decides_the_pose():
    """At two tempi, and four bars later, the same beat has the same pose; the next one has another."""
    loop = load_motion("dance_a", 24.0)
    slow, fast = (_silent_song("disco", tempo) for tempo in (113, 119))
    fps = 60
    poses = {}
    for name, song in (("slow", slow), ("fast", fast)):
        dance = choreograph(loop, song, fps)
        frames = np.rint(song.beats_s * fps).astype(int)
        poses[name] = dance.positions()[frames]
    assert np.abs(poses["slow"] - poses["fast"]).mean() < 0.02
    assert np.abs(poses["slow"][:16] - poses["slow"][16:]).mean() < 0.02
    assert np.abs(poses["slow"][1:] - poses["slow"][:-1]).mean() > 0.05
