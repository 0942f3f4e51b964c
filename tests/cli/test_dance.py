"""`champ-jax dance`: a video with its song and skeleton from a tiny random model, and refusals in one line."""

import json

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from champ_jax.cli.main import main
from champ_jax.infer.photo import standing_body
from tests.infer.tiny import TINY_M2P, save_tiny, tiny_config


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("weights") / "model", tiny_config(TINY_M2P))


@pytest.fixture
def arguments(model, tmp_path):
    """A valid command, as a dict of options."""
    Image.fromarray(np.full((40, 40, 3), 120, np.uint8)).save(tmp_path / "photo.png")
    clicks = np.zeros(22050 * 2)
    clicks[::11025] = 0.9
    soundfile.write(tmp_path / "song.wav", np.convolve(clicks, np.hanning(400)), 22050)
    return {"checkpoint": model, "image": tmp_path / "photo.png", "music": tmp_path / "song.wav", "out": tmp_path / "d.mp4"}


def command(options):
    return main(["dance"] + [f"--{key.replace('_', '-')}={value}" for key, value in options.items()])


def test_video_skeleton_and_song_of_the_same_length(arguments, capsys, tmp_path):
    assert command({**arguments, "seconds": 0.5}) == 0
    captured = capsys.readouterr()
    assert "6 frames" in captured.out and "no pose was given" in captured.err
    for name in ("d.mp4", "d.skeleton.mp4"):
        with av.open(str(tmp_path / name)) as container:
            picture, sound = container.streams.video[0], container.streams.audio[0]
            assert picture.frames == 6
            assert abs(float(sound.duration * sound.time_base) - 0.5) < 0.05


def test_a_pose_beside_the_photo_is_used(arguments, capsys):
    keypoints, confidence = standing_body((40, 40))
    pose = {"keypoints": np.concatenate([keypoints, confidence[:, None]], 1).tolist(), "size": [40, 40]}
    arguments["image"].with_suffix(".json").write_text(json.dumps(pose))
    assert command({**arguments, "seconds": 0.5}) == 0
    assert "no pose was given" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "nowhere.png"}, "nowhere.png: there is no such image"),
        ({"music": "nowhere.wav"}, "nowhere.wav"),
        ({"music": "photo.png"}, "not audio"),
        ({"music": "silence.wav"}, "is silent"),
        ({"seconds": "0"}, "--seconds is 0"),
        ({"seconds": "-1"}, "--seconds is -1"),
        ({"pose": "photo.png"}, "cannot read the pose"),
        ({"out": "d"}, "videos are written as .mp4"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, change, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write(tmp_path / "silence.wav", np.zeros(22050), 22050)
    assert command({**arguments, **change}) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_model_without_music_cannot_dance(arguments, capsys, tmp_path):
    save_tiny(tmp_path / "mute")
    assert command({**arguments, "checkpoint": tmp_path / "mute"}) == 2
    assert "cannot dance" in capsys.readouterr().err
