"""Composed songs: exact beats, the same samples again, small files."""

import numpy as np
import pytest

from champ_jax.data.dancers import songs
from champ_jax.errors import UserError


@pytest.mark.parametrize("style", songs.STYLES)
def test_a_song_is_deterministic_and_well_formed(style):
    song = songs.compose(style, 3, bars=1)
    again = songs.compose(style, 3, bars=1)
    np.testing.assert_array_equal(song.audio, again.audio)
    other = songs.compose(style, 4, tempo=song.tempo_bpm, bars=1)
    assert np.abs(song.audio - other.audio).max() > 0.1
    low, high = songs.STYLES[style].tempo
    assert low <= song.tempo_bpm <= high and song.style_id == list(songs.STYLES).index(style)
    assert len(song.beats_s) == 4 and np.array_equal(song.downbeats_s, song.beats_s[::4])
    np.testing.assert_allclose(np.diff(song.beats_s), 60 / song.tempo_bpm, rtol=1e-4)
    assert song.audio.dtype == np.float32 and np.isfinite(song.audio).all()
    assert 0.85 < np.abs(song.audio).max() < 0.9
    assert len(song.audio) == round((songs.LEAD_IN + 4 * 60 / song.tempo_bpm + songs.TAIL) * song.rate)


def test_patterns_fill_a_bar():
    for name, style in songs.STYLES.items():
        for field in ("kick", "snare", "clap", "hat", "open_hat", "bass", "comp", "melody"):
            assert len(getattr(style, field)) == songs.STEPS, (name, field)


def test_places_in_the_phrase_sound_different():
    """Bars 1 to 4 differ from one another, and bar 5 is bar 1 again: the phrase can be heard."""
    song = songs.compose("pop", 1, tempo=96, bars=8)
    bar = round(4 * 60 / 96 * song.rate)
    start = round(song.beats_s[0] * song.rate)
    spectra = [np.log1p(np.abs(np.fft.rfft(song.audio[start + i * bar : start + (i + 1) * bar]))[200:8000]) for i in range(5)]
    alike = np.corrcoef(spectra)
    assert alike[0, 4] > alike[0, 1:4].max() + 0.05


def test_a_saved_song_comes_back(tmp_path):
    song = songs.compose("hiphop", 7, bars=1)
    songs.save_song(song, tmp_path)
    back = songs.load_song("hiphop_7", tmp_path)
    np.testing.assert_allclose(back.beats_s, song.beats_s, atol=1e-5)
    assert (back.style, back.tempo_bpm, back.rate) == (song.style, song.tempo_bpm, song.rate)
    assert np.corrcoef(back.audio, song.audio[: len(back.audio)])[0, 1] > 0.98  # Vorbis, and no delay


def test_committed_songs_are_all_there_and_small():
    for name in songs.SONGS:
        song = songs.load_song(name)
        assert song.name == name and 15 < len(song.audio) / song.rate < 30
        assert (songs.SONG_FOLDER / f"{name}.ogg").stat().st_size < 250_000


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="house"):
        songs.compose("waltz", 0)
    with pytest.raises(UserError, match="bar"):
        songs.compose("house", 0, bars=0)
    with pytest.raises(UserError, match="no song"):
        songs.load_song("absent", tmp_path)
