"""Videos as cameras and phones write them: the right frames at the right times, upright and in square pixels."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from champ_jax.data.media import probe, read_audio, read_frames, read_image
from champ_jax.errors import UserError
from tests.data.films import RATE, clicks, counting, film, number_of

RATES = [
    Fraction(24000, 1001),
    Fraction(24),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(50),
    Fraction(60000, 1001),
    Fraction(60),
]


def numbers(path, fps, **kwargs):
    return [number_of(frame) for frame in read_frames(path, Fraction(fps), **kwargs)]


def test_probe(tmp_path):
    media = probe(film(tmp_path / "a.mp4", counting(50), 25, clicks([1.0], 2.0)))
    assert (media.width, media.height, media.fps, media.has_audio) == (64, 48, 25, True)
    assert media.seconds == pytest.approx(2.0, abs=0.03) and media.container == "mp4" and media.codec == "mpeg4"


def test_every_frame_once_at_its_own_rate(tmp_path):
    for number, fps in enumerate(RATES):
        path = film(tmp_path / f"{number}.mp4", counting(40), fps)
        assert numbers(path, fps) == list(range(40)), fps


def test_other_rates_take_the_nearest_frame(tmp_path):
    path = film(tmp_path / "a.mp4", counting(60), 60)
    assert numbers(path, 30) == list(range(0, 60, 2))
    path = film(tmp_path / "b.mp4", counting(30), 30)
    assert numbers(path, 60)[:6] == [0, 0, 1, 1, 2, 2]
    assert len(numbers(path, 24)) == 24


def test_pieces_join_without_a_lost_or_doubled_frame(tmp_path):
    """Also where B-frames stand in another order than they are shown, and from keyframe to keyframe."""
    for name, codec, options in (("a.mp4", "mpeg4", {"bf": "2"}), ("b.mkv", "libx264", {"g": "12", "bf": "3"})):
        path = film(tmp_path / name, counting(90), 30, codec=codec, options=options)
        pieces = [numbers(path, 30, start=start / 30, count=count) for start, count in ((0, 25), (25, 25), (50, 40))]
        assert sum(pieces, []) == list(range(90)), name


def test_variable_rate(tmp_path):
    """A picture is shown until the next one comes, also where that takes half a second: none is shown long before its time."""
    times = np.array([0.0, 0.04, 0.08, 0.5, 0.54, 1.0])
    path = film(tmp_path / "a.mkv", counting(6), 25, times=times, codec="libx264")
    expected = [int(np.flatnonzero(times <= i / 25 + 0.021)[-1]) for i in range(26)]
    found = numbers(path, 25)
    assert found[:25] == expected[:25] and set(found[25:]) == {5}


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation(tmp_path, degrees):
    frames = np.zeros((5, 48, 96, 3), np.uint8)
    frames[:, :24, :24] = 255  # a mark in the upper left corner
    path = film(tmp_path / "a.mp4", frames, 25, rotation=degrees)
    frame = next(read_frames(path, Fraction(25)))
    expected = np.rot90(frames[0], degrees // 90)
    assert frame.shape == expected.shape == ((96, 48, 3) if degrees != 180 else (48, 96, 3))
    assert (probe(path).height, probe(path).width) == frame.shape[:2]
    assert np.abs(frame.astype(int) - expected).mean() < 12


def test_pixels_that_are_not_square_and_odd_sizes(tmp_path):
    path = film(tmp_path / "a.mkv", counting(5, (48, 72)), 25, ratio=Fraction(4, 3), codec="libx264")
    assert next(read_frames(path, Fraction(25))).shape == (48, 96, 3) and probe(path).width == 96
    path = film(tmp_path / "b.mkv", counting(5, (49, 71)), 25, codec="ffv1")
    assert next(read_frames(path, Fraction(25))).shape == (48, 72, 3)


def test_smaller(tmp_path):
    path = film(tmp_path / "a.mp4", counting(5, (480, 640)), 25)
    assert next(read_frames(path, Fraction(25), longest=320)).shape == (240, 320, 3)


def test_large_pictures_that_say_nothing_have_the_colours_of_hd(tmp_path):
    """Players and cameras take BT.709 for them; FFmpeg would take BT.601, and red would be darker."""
    frames = np.full((3, 720, 1280, 3), (200, 40, 60), np.uint8)
    for name, said in (("said", ["colormatrix=bt709"]), ("silent", [])):
        path = film(tmp_path / f"{name}.mkv", frames, 25, codec="libx264", options={"x264-params": ":".join(said)}, matrix="709")
        assert np.abs(next(read_frames(path, Fraction(25))).mean((0, 1)) - (200, 40, 60)).max() < 4, name


def test_sound_keeps_the_clock_of_the_video(tmp_path):
    sound = clicks([0.5, 1.5], 2.0)
    for name, start in (("a.mkv", 0.0), ("b.mkv", 0.3)):
        path = film(tmp_path / name, counting(60), 25, sound, sound_start=start, codec="libx264")
        assert probe(path).audio_offset_s == pytest.approx(start, abs=0.03)
        heard = read_audio(path, RATE, 0.0, 2.4)
        assert len(heard) == round(2.4 * RATE)
        loud = np.flatnonzero(np.abs(heard) > 0.3) / RATE
        assert loud[0] == pytest.approx(0.5 + start, abs=0.003)
        part = read_audio(path, RATE, 1.0, 1.0)
        assert np.flatnonzero(np.abs(part) > 0.3)[0] / RATE == pytest.approx(0.5 + start, abs=0.003)


def test_no_sound_and_sound_alone(tmp_path):
    path = film(tmp_path / "a.mp4", counting(10), 25)
    assert not probe(path).has_audio
    with pytest.raises(UserError, match="no sound"):
        read_audio(path, RATE, 0.0, 1.0)


def test_images_of_every_kind(tmp_path):
    for mode, value in (("L", 100), ("RGB", (100, 100, 100)), ("RGBA", (100, 100, 100, 255)), ("I;16", 100 * 257), ("P", 0)):
        path = tmp_path / f"{mode.replace(';', '')}.png"
        Image.new(mode, (8, 6), value).save(path)
        image = read_image(path)
        assert image.shape == (6, 8, 3) and image.dtype == np.uint8
        assert mode == "P" or (image == 100).all()
    Image.new("RGBA", (8, 6), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()
