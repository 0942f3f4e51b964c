"""Films: what an interruption leaves, and sound that arrives while the film is made."""

import numpy as np
import pytest
import soundfile

from champ_jax.errors import UserError
from champ_jax.infer import film
from champ_jax.infer.film import AUDIO_RATE, Film, stereo_blocks
from champ_jax.infer.video import read_video

RATE = 16_000


def _frames(count):
    """Flat greys that change with time."""
    return np.repeat(10 * np.arange(count, dtype=np.uint8), 31 * 33 * 3).reshape(count, 31, 33, 3)


def _noise(frame):
    """The sound of a twelfth of a second."""
    return 0.3 * np.random.default_rng(frame).standard_normal(RATE // 12).astype(np.float32)


@pytest.mark.parametrize("keep", [False, True])
def test_interruption_leaves_what_was_there(tmp_path, keep):
    song, out, partial = tmp_path / "song.wav", tmp_path / "a.mp4", tmp_path / "a.partial.mp4"
    soundfile.write(song, np.concatenate(list(map(_noise, range(12)))), RATE)
    with Film(out, (31, 33), 12) as film:
        film.add(_frames(3))
    before = out.read_bytes()
    with pytest.raises(KeyboardInterrupt), Film(out, (31, 33), 12, song, keep=keep) as film:
        film.add(_frames(7))
        raise KeyboardInterrupt
    assert out.read_bytes() == before
    assert sorted(tmp_path.glob("*.mp4")) == [out] + [partial] * keep
    if keep:
        assert len(read_video(partial)[0]) == 7
    with pytest.raises(KeyboardInterrupt), Film(tmp_path / "b.mp4", (31, 33), 12, keep=keep):
        raise KeyboardInterrupt
    with Film(out, (31, 33), 12, keep=keep) as film:
        film.add(_frames(2))
    assert len(read_video(out)[0]) == 2 and sorted(tmp_path.iterdir()) == [out, song]


def test_sound_that_arrives_is_in_the_film_and_a_killed_writer_leaves_what_plays(tmp_path):
    out = tmp_path / "live.mp4"
    with Film(out, (31, 33), 12, rate=RATE, keep=True) as film:
        for frame in range(18):
            film.hear(_noise(frame))
            film.add(_frames(18)[frame, None])
        (unfinished,) = tmp_path.iterdir()
        assert unfinished != out and len(read_video(unfinished)[0]) >= 12
    frames, fps = read_video(out)
    assert len(frames) == 18 and fps == 12
    assert np.abs(frames.mean((1, 2, 3)) - 10 * np.arange(18)).max() < 3
    sound = stereo_blocks(out, AUDIO_RATE // 2)
    assert [np.abs(next(sound)).max() > 0.1 for _ in range(4)] == [True, True, True, False]
    kept = tmp_path / "empty.partial.mp4"
    kept.write_bytes(b"of an earlier film")
    with Film(tmp_path / "empty.mp4", (32, 32), 12, rate=RATE, keep=True):
        pass
    assert sorted(tmp_path.iterdir()) == [kept, out]


@pytest.mark.parametrize("error", [UserError("song.wav: cannot read the song"), KeyboardInterrupt()], ids=["damaged", "Ctrl-C"])
def test_a_song_that_ends_in_an_error_leaves_the_film_so_far(tmp_path, monkeypatch, error):
    def blocks(path, block):
        yield from np.zeros((5, 2, block), np.float32)
        raise error

    monkeypatch.setattr(film, "stereo_blocks", blocks)
    with pytest.raises(type(error)) as raised, Film(tmp_path / "a.mp4", (31, 33), 12, "song.wav", keep=True) as made:
        made.add(_frames(1))
        made.add(_frames(4))
    assert raised.value is error
    frames = len(read_video(tmp_path / "a.partial.mp4")[0])
    assert frames == 5


def test_a_song_joined_of_two_kinds_is_read_to_its_end(tmp_path):
    parts = [tmp_path / "mono.mp3", tmp_path / "stereo.mp3"]
    for path, channels, rate in zip(parts, (1, 2), (RATE, AUDIO_RATE)):
        soundfile.write(path, 0.3 * np.random.default_rng(0).standard_normal((rate, channels)), rate)
    song = tmp_path / "joined.mp3"
    song.write_bytes(b"".join(path.read_bytes() for path in parts))
    sound = stereo_blocks(song, AUDIO_RATE // 4)
    loud = [np.abs(next(sound)).max() > 0.1 for _ in range(10)]
    assert all(loud[:8]) and not loud[9]  # files of this kind end a little late
