"""The music of a stretch, heard or given, on the clock of the video; and whether sound and motion are in step."""

import json
from fractions import Fraction

import numpy as np
import pytest

from champ_jax.audio.beats import find_downbeats, track_beats
from champ_jax.data.prepare.layouts import find
from champ_jax.data.prepare.offset import measure_offset, motion_accents
from champ_jax.data.prepare.soundtrack import hear
from champ_jax.data.prepare.source import Source
from champ_jax.errors import UserError
from champ_jax.pose.skeleton import J
from tests.data.films import RATE, counting, film

FPS = Fraction(30)


def drums(seconds: float, bpm: float = 120.0) -> np.ndarray:
    """f32 [S] at 48 kHz: a kick on each beat, twice as loud on the first of four, noise on the others."""
    sound = np.zeros(round(seconds * RATE), np.float32)
    rng, period = np.random.default_rng(0), 60 / bpm
    t = np.arange(round(0.12 * RATE)) / RATE
    for beat in range(int(seconds / period)):
        start = round(beat * period * RATE)
        hit = np.sin(2 * np.pi * 70 * t) * np.exp(-t * 30) * (1.0 if beat % 4 == 0 else 0.15)
        hit = hit + rng.normal(0, 0.25, len(t)) * np.exp(-t * 60)
        part = sound[start : start + len(t)]
        part += hit[: len(part)].astype(np.float32)
    return sound * 0.5


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Source:
    folder = tmp_path_factory.mktemp("song")
    film(folder / "a.mkv", counting(60)[np.arange(1200) % 60], 30, drums(40.0), codec="libx264")
    return find(folder).sources[0]


def test_pieces_hear_one_song(source):
    """Beats of two stretches lie on the song's grid; rows are those of their times."""
    for first in (0, 300, 900):
        music = hear(source, first, 300, FPS, "rich192")
        assert music.rows.shape == (300, 192) and music.spec == "rich192@30" and music.fps == 30 and music.offset_s == 0
        assert music.tempo_bpm == pytest.approx(120, rel=0.03) or music.tempo_bpm == pytest.approx(60, rel=0.03)
        grid = (music.beats_s + first / 30) % 0.5
        assert np.minimum(grid, 0.5 - grid).max() < 0.05 and len(music.beats_s) >= 9
        part = music.part(60, 90, FPS)
        np.testing.assert_array_equal(part.rows, music.rows[60:150])
        assert (part.beats_s >= 0).all() and (part.beats_s < 3).all()


def test_downbeats_are_where_the_bass_is():
    sound = drums(20.0)
    beats = track_beats(sound, RATE)
    downbeats = find_downbeats(sound, RATE, beats)
    phase = downbeats % 2.0
    assert len(downbeats) >= 5 and (np.minimum(phase, 2.0 - phase) < 0.06).all()
    assert len(find_downbeats(sound, RATE, beats[:5])) == 0


def test_features_of_a_user(source, tmp_path):
    rows = np.arange(1200)[:, None] * np.ones((1, 4800))
    path = tmp_path / "a.npy"
    np.save(path, rows.astype(np.float32))
    given = Source(**{**source.__dict__, "features": path})
    music = hear(given, 300, 90, FPS, "rich192")
    assert music.spec == "jukebox4800@30" and music.rows[0, 0] == 300 and len(music.beats_s)
    np.save(path, rows[:1100])
    with pytest.raises(UserError, match="36.67 s, but the clip has 40.0"):
        hear(given, 300, 90, FPS, "rich192")
    np.save(path, rows[:, :7])
    with pytest.raises(UserError, match="a.json"):
        hear(given, 300, 90, FPS, "rich192")
    np.save(path, np.zeros((3000, 8)))
    path.with_suffix(".json").write_text(json.dumps({"spec": "mert8", "fps": 75}))
    music = hear(given, 301, 90, FPS, "rich192")
    assert music.spec == "mert8@75" and -1 / 75 < music.offset_s <= 0
    for wrong in ("{}", '{"spec": "mert8", "fps": 0}', '{"spec": "mert8", "fps": Infinity}'):
        path.with_suffix(".json").write_text(wrong)
        with pytest.raises(UserError, match="a.json"):
            hear(given, 300, 90, FPS, "rich192")
    np.save(path, np.array([object()]), allow_pickle=True)
    with pytest.raises(UserError, match="cannot read the features"):
        hear(given, 300, 90, FPS, "rich192")


def test_no_sound_and_silence(tmp_path):
    film(tmp_path / "a.mkv", counting(30), 30, codec="libx264")
    film(tmp_path / "b.mkv", counting(30), 30, np.zeros(RATE, np.float32), codec="libx264")
    assert [hear(source, 0, 30, FPS, "rich192") for source in find(tmp_path).sources] == [None, None]


def dancer(accents: np.ndarray, frames: int, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints of somebody who turns round at these times, at an even speed between them."""
    times = np.arange(frames) / fps
    turns = np.searchsorted(accents, times)
    speed = np.where(turns % 2, 200.0, -200.0)
    edges = np.concatenate([[0], accents])
    before = np.concatenate([[0.0], np.cumsum(np.diff(edges) * np.where(np.arange(len(accents)) % 2, 200.0, -200.0))])
    x = before[turns] + (times - edges[turns]) * speed
    keypoints = np.repeat(np.stack([x, 0 * x], -1)[:, None], J, 1)
    return keypoints.astype(np.float32), np.ones((frames, J), np.float32)


@pytest.mark.parametrize("offset", [-0.3, -0.11, 0.0, 0.045, 0.25])
def test_a_known_offset_is_measured_within_20_ms(offset):
    fps, frames = 30.0, 600
    rng = np.random.default_rng(1)
    accents = np.cumsum(rng.choice([0.4, 0.5, 0.7, 0.9], 30))
    accents = accents[accents < 19]
    keypoints, confidence = dancer(accents, frames, fps)
    times = np.arange(frames) / fps
    onsets = np.exp(-(((times[:, None] - accents - offset) / 0.03) ** 2)).sum(1) + rng.normal(0, 0.05, frames)
    found, sure = measure_offset(onsets, motion_accents(keypoints, confidence, fps), fps)
    assert found == pytest.approx(offset, abs=0.02) and sure > 4


def test_what_says_nothing_is_not_sure():
    rng = np.random.default_rng(0)
    assert measure_offset(np.zeros(300), rng.random(300), 30) == (0.0, 0.0)
    assert measure_offset(np.zeros(3), np.zeros(3), 30) == (0.0, 0.0)
    assert np.median([measure_offset(rng.random(300), rng.random(300), 30)[1] for _ in range(20)]) < 4
