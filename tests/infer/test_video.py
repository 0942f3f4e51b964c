"""Video files: sizes, colours, sound as long as the picture, and errors that leave nothing."""

import json
from itertools import islice

import av
import numpy as np
import pytest
import soundfile

from champ_jax.errors import UserError
from champ_jax.infer.film import stereo_blocks
from champ_jax.infer.video import Video, read_video, skeleton_path, write_video


def _frames(count=12, height=96, width=64):
    """Flat colours that change with time, so that compression changes them little."""
    colours = np.linspace([200, 40, 40], [40, 40, 200], count).astype(np.uint8)
    return np.broadcast_to(colours[:, None, None], (count, height, width, 3)).copy()


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "song.wav"
    soundfile.write(path, 0.3 * np.sin(np.arange(22050 * 3) / 10), 22050)
    return path


def test_colours_and_rate_survive(tmp_path):
    frames = _frames()
    write_video(tmp_path / "a.mp4", frames, 12, min_side=1)
    read, fps = read_video(tmp_path / "a.mp4")
    assert read.shape == frames.shape and fps == 12
    assert np.abs(read.astype(int) - frames).mean() < 4


def test_small_frames_are_enlarged_by_a_whole_factor(tmp_path):
    write_video(tmp_path / "a.mp4", _frames(), 12)
    read, _ = read_video(tmp_path / "a.mp4")
    assert read.shape[1:] == (576, 384, 3)


def test_odd_sides_become_even(tmp_path):
    write_video(tmp_path / "a.mp4", _frames(height=33, width=35), 12, min_side=1)
    read, _ = read_video(tmp_path / "a.mp4")
    assert read.shape[1:] == (34, 36, 3)


def test_rate_with_a_fraction(tmp_path):
    write_video(tmp_path / "a.mp4", _frames(), 30000 / 1001, min_side=1)
    assert abs(read_video(tmp_path / "a.mp4")[1] - 30000 / 1001) < 1e-6


@pytest.mark.parametrize("count", [12, 60])
def test_sound_is_as_long_as_the_picture(tmp_path, song, count):
    """The song lasts 3 s: cut for a video of 1 s, filled with silence for one of 5 s."""
    write_video(tmp_path / "a.mp4", _frames(count), 12, audio=song, min_side=1)
    with av.open(str(tmp_path / "a.mp4")) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        video_seconds = float(picture.duration * picture.time_base)
        audio_seconds = float(sound.duration * sound.time_base)
    assert abs(video_seconds - count / 12) < 1e-3
    assert abs(audio_seconds - video_seconds) < 0.05
    assert max(np.abs(block).max() for block in islice(stereo_blocks(tmp_path / "a.mp4", 1024), 40)) > 0.1


def test_skeleton_lies_beside_the_video(tmp_path):
    frames = _frames()
    Video(frames, 12, skeleton=frames[..., ::-1], metadata={"seed": 3}).save(tmp_path / "dance.mp4", min_side=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dance.made.json", "dance.mp4", "dance.skeleton.mp4"]
    assert json.loads((tmp_path / "dance.made.json").read_text()) == {"frames": len(frames), "fps": 12, "seed": 3}
    assert skeleton_path("x/dance.mp4").name == "dance.skeleton.mp4"


def test_errors_name_the_file(tmp_path, song):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(UserError, match="text.mp4"):
        read_video(tmp_path / "text.mp4")
    with pytest.raises(UserError, match="no video"):
        read_video(song)
    with pytest.raises(UserError, match="end"):
        write_video(tmp_path / "a.gif", _frames(), 12)
    with pytest.raises(UserError, match="text.mp4"):
        write_video(tmp_path / "a.mp4", _frames(), 12, audio=tmp_path / "text.mp4")
    with pytest.raises(UserError, match="no frames"):
        write_video(tmp_path / "a.mp4", _frames(0), 12)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["song.wav", "text.mp4"]
