"""One clock for pictures and sound: what happens at one time is found at one time, in every container, wherever reading begins."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from champ_jax.audio.features import FEATURE_RATE, features
from champ_jax.data.media import probe, read_audio, read_frames
from champ_jax.data.music import rows_at
from tests.data.films import RATE, clicks, counting, film, number_of

RATES = [Fraction(24000, 1001), 24, 25, Fraction(30000, 1001), 30, 50, Fraction(60000, 1001), 60]
SECONDS, FLASH = 3.0, 1.7

# (name, codec, its options, codec of the sound)
CONTAINERS = [
    ("b_frames.mp4", "libx264", {"bf": "3", "g": "12"}, "aac"),
    ("open_groups.mp4", "libx264", {"bf": "3", "g": "12", "x264-params": "open-gop=1"}, "aac"),
    ("a.mov", "mpeg4", {"bf": "2"}, "aac"),
    ("one_keyframe.mkv", "libx264", {"g": "1000", "bf": "3"}, "pcm_s16le"),
    ("a.webm", "libvpx-vp9", {"cpu-used": "8", "deadline": "realtime", "g": "30"}, "libopus"),
    ("a.avi", "mpeg4", {}, "pcm_s16le"),
    ("b_frames.avi", "libx264", {"bf": "2", "g": "12"}, "pcm_s16le"),
    ("a.ts", "libx264", {"bf": "3", "g": "12"}, "aac"),
    ("a.mpg", "mpeg2video", {"bf": "2", "g": "12"}, "mp2"),
    ("a.flv", "libx264", {"bf": "3", "g": "12"}, "aac"),
]


def flash(path: Path, fps, time: float = FLASH, **kwargs) -> tuple[Path, int]:
    """(a film of SECONDS in which it gets light at the frame nearest to `time`, and clicks just then; that frame)."""
    hit = round(time * fps)
    frames = np.full((round(SECONDS * fps), 32, 32, 3), 20, np.uint8)
    frames[hit:] = 230
    return film(path, frames, fps, clicks([float(hit / fps)], SECONDS), **kwargs), hit


def first_light(frames) -> int:
    return [frame.mean() > 100 for frame in frames].index(True)


def heard(sound: np.ndarray, rate: int = RATE) -> float:
    """Seconds of the first click."""
    return float(np.flatnonzero(np.abs(sound) > 0.2)[0]) / rate


@pytest.mark.parametrize("fps", RATES, ids=lambda fps: f"{float(fps):.3f}")
def test_click_and_flash_share_a_frame(tmp_path, fps):
    """Through decoding, features and the loader's clock at the film's own rate, and at the rates of others."""
    path, hit = flash(tmp_path / "a.mkv", fps, codec="libx264")
    time = float(hit / fps)
    assert hit == round(FLASH * fps) and len(list(read_frames(path, fps))) == round(SECONDS * fps)
    sound = read_audio(path, FEATURE_RATE, 0.0, SECONDS)
    assert heard(sound, FEATURE_RATE) == pytest.approx(time, abs=0.002)
    for out in sorted({Fraction(fps), Fraction(24), Fraction(30)}):
        light = first_light(read_frames(path, out))
        # With half of the film's frames, or nearly all, as with as many or more, this is the nearest frame.
        assert light == int(np.ceil(float(hit / fps * out - min(1, out / fps) / 2) - 1e-9))
        assert abs(light - time * out) <= (0.501 if out in (fps, fps / 2) or out >= fps * Fraction(24, 25) else 1)
        rows = features(sound, FEATURE_RATE, out, "rich192", beats=np.array([time, time + 0.5]))
        assert abs(int(rows[:, 161].argmax()) - round(time * out)) <= 1
        assert rows[:, 187].argmax() == round(time * out)
        at = rows_at(rows, float(out), np.arange(round(SECONDS * fps)) / float(fps), float(1 / Fraction(fps)), f"rich192@{float(out):g}")
        events = np.flatnonzero(at[:, 187] > 0.5) / float(fps)
        assert np.abs(events - time).min() <= float(max(1 / out, 1 / Fraction(fps))) / 2 + 0.001


@pytest.mark.parametrize("name, codec, options, sound_codec", CONTAINERS, ids=[row[0] for row in CONTAINERS])
def test_every_container_keeps_time(tmp_path, name, codec, options, sound_codec):
    """Every frame once and in order, at once and in pieces; the click when the light comes on, also heard from the middle on."""
    fps, path = Fraction(30000, 1001), tmp_path / name
    film(path, counting(75), fps, clicks([1.0, 2.0], 2.5), codec=codec, options=options, sound_codec=sound_codec)
    about = probe(path)
    assert about.seconds == pytest.approx(75 / fps, abs=0.1) and about.has_audio
    assert [number_of(frame) for frame in read_frames(path, fps)] == list(range(75))
    pieces = [read_frames(path, fps, float(first / fps), 25) for first in (0, 25, 50)]
    assert [number_of(frame) for piece in pieces for frame in piece] == list(range(75))
    assert heard(read_audio(path, RATE, 0.0, 2.5)) == pytest.approx(1.0, abs=0.005)
    assert 1.3 + heard(read_audio(path, RATE, 1.3, 1.0)) == pytest.approx(2.0, abs=0.005)


@pytest.mark.parametrize("sound_start", [-0.25, 0.4])
@pytest.mark.parametrize("video_start", [0.0, 1.5])
def test_streams_that_begin_at_different_times(tmp_path, sound_start, video_start):
    """The clock is that of the first picture, whatever its time stamp."""
    path = tmp_path / "a.mkv"
    frames, sound = counting(50), clicks([1.0], 2.0)
    film(path, frames, 25, sound, codec="libx264", start=video_start, sound_start=video_start + sound_start)
    assert [number_of(frame) for frame in read_frames(path, Fraction(25))] == list(range(50))
    assert [number_of(frame) for frame in read_frames(path, Fraction(25), 1.2, 5)] == [30, 31, 32, 33, 34]
    about = probe(path)
    # Matroska has no times below zero: a sound that begins before the picture moves both.
    assert about.audio_offset_s == pytest.approx(sound_start, abs=0.002) and about.seconds == pytest.approx(2.0, abs=0.05)
    sound = read_audio(path, RATE, 0.0, 2.0)
    assert heard(sound) == pytest.approx(1.0 + sound_start, abs=0.002) and len(sound) == 2 * RATE
    assert heard(read_audio(path, RATE, 0.5, 1.0)) == pytest.approx(0.5 + sound_start, abs=0.002)


def test_an_edit_list(tmp_path):
    """An mp4 may say that it is shown only from some time on, as cut phone videos do: what is before is neither seen nor counted."""
    path = film(tmp_path / "a.mp4", counting(75), 25, codec="libx264", options={"g": "25", "bf": "0"})
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 12
    scale = int.from_bytes(data[data.index(b"mdhd") + 16 :][:4], "big")
    data[entry : entry + 4] = (2 * 1000).to_bytes(4, "big")  # shown for two seconds
    data[entry + 4 : entry + 8] = (scale * 14 // 25).to_bytes(4, "big")  # from frame 14 on
    path.write_bytes(data)
    assert [number_of(frame) for frame in read_frames(path, Fraction(25))][:50] == list(range(14, 64))
    assert [number_of(frame) for frame in read_frames(path, Fraction(25), 1.0, 5)] == [39, 40, 41, 42, 43]


def test_sound_that_drifts_and_breaks_off_keeps_time(tmp_path):
    """Sound of a clock 1 % fast by its time stamps, and then with a hole: what is heard is when the stamps say it."""
    path = tmp_path / "a.mkv"
    sound = clicks([1.0, 9.0], 10.0)
    film(path, counting(100).repeat(3, 0)[:300], 30, sound, codec="libx264", sound_time=lambda t: 1.01 * t + (0.5 if t > 5 else 0))
    found = np.flatnonzero(np.abs(read_audio(path, RATE, 0.0, 10.0)) > 0.2) / RATE
    assert found[0] == pytest.approx(1.01, abs=0.02)
    assert found[found > 5][0] == pytest.approx(9.0 * 1.01 + 0.5, abs=0.02)


def test_all_channels_are_heard_equally(tmp_path):
    """Mono is the mean of the channels, as in audio/load.py: at the level of the file, whether one or two of them sound."""
    import soundfile

    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    for name, channels, level in (("both", (tone, tone), 0.5), ("left", (tone, 0 * tone), 0.25), ("one", (tone,), 0.5)):
        soundfile.write(tmp_path / f"{name}.wav", np.stack(channels, -1), RATE)
        assert np.abs(read_audio(tmp_path / f"{name}.wav", 24_000, 0.0, 1.0)).max() == pytest.approx(level, rel=0.02)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_songs(tmp_path, suffix):
    """Sound alone begins at its first sample."""
    import soundfile

    soundfile.write(tmp_path / f"a.{suffix}", clicks([1.0, 3.0], 4.0), RATE)
    path = tmp_path / f"a.{suffix}"
    assert heard(read_audio(path, RATE, 0.0, 4.0)) == pytest.approx(1.0, abs=0.03 if suffix == "mp3" else 0.002)
    assert 2.2 + heard(read_audio(path, RATE, 2.2, 1.5)) == pytest.approx(3.0, abs=0.03 if suffix == "mp3" else 0.002)
    assert probe(path).width == 0
