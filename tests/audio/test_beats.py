"""The beat tracker against songs whose beats are known, and the clock between beats."""

import fcntl
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from champ_jax.audio.beats import beat_phase, track_beats
from champ_jax.audio.one_at_a_time import one_at_a_time
from champ_jax.data.dancers.songs import SONGS, load_song


def f_measure(true, found, tolerance=0.07):
    """F-measure of beats within 70 ms; true [n], found [m], seconds."""
    apart = np.abs(true[:, None] - found[None])
    hits = sum(apart.min(1) <= tolerance)
    return 2 * hits / (len(true) + len(found))


@pytest.mark.parametrize("name", SONGS)
def test_finds_the_beats_of_every_song(name):
    song = load_song(name)
    beats = track_beats(song.audio, song.rate)
    assert f_measure(song.beats_s, beats) > 0.9
    lag = np.median([beat - beats[np.abs(beats - beat).argmin()] for beat in song.beats_s])
    assert abs(lag) < 0.01


def test_silence_has_no_beats():
    assert len(track_beats(np.zeros(48_000, np.float32), 24_000)) == 0


def test_phase_runs_on_before_and_after():
    beats = np.array([1.0, 1.5, 2.5])
    np.testing.assert_allclose(beat_phase([0.5, 1.0, 1.25, 2.0, 2.5, 3.5], beats), [-1, 0, 0.5, 1.5, 2, 3])
    with pytest.raises(ValueError, match="2 beats"):
        beat_phase([0.0], [1.0])


def test_one_process_at_a_time_compiles():
    path = Path(tempfile.gettempdir()) / f"champ_jax-librosa-{os.getuid()}.lock"
    with one_at_a_time(), open(path) as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        track = threading.Thread(target=lambda: track_beats(np.random.default_rng(0).standard_normal(48_000).astype(np.float32), 24_000))
        track.start()
        track.join(0.5)
        assert track.is_alive()
    track.join(60)
    assert not track.is_alive()
