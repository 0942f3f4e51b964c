"""`champ-jax animate`: a video from a tiny random model, and one line and exit code 2 for each wrong input."""

import json

import numpy as np
import pytest
from PIL import Image

from champ_jax.cli.main import main
from champ_jax.cli.progress import progress
from champ_jax.cli.sampling import read_size
from champ_jax.errors import UserError
from champ_jax.infer.video import read_video
from tests.infer.tiny import SIZE, save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("weights") / "model")


@pytest.fixture
def arguments(model, tmp_path):
    """A valid command, as a dict of options."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(tmp_path / "photo.png")
    (tmp_path / "motion" / "depth").mkdir(parents=True)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(tmp_path / "motion" / "depth" / f"{i:04d}.png")
    return {
        "checkpoint": model, "image": tmp_path / "photo.png", "guidance": tmp_path / "motion", "out": tmp_path / "out.mp4",
    }  # fmt: skip


def command(name, options):
    return main([name] + [f"--{key.replace('_', '-')}={value}" for key, value in options.items()])


def test_writes_a_video_and_says_so(arguments, capsys, tmp_path):
    assert main(["animate", "--json"] + [f"--{k}={v}" for k, v in arguments.items()]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["frames"] == 4 and result["seed"] == 0 and result["out"] == str(arguments["out"])
    frames, fps = read_video(arguments["out"])
    assert frames.shape == (4, 384, 384, 3) and fps == 12
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "nowhere.png"}, "nowhere.png: there is no such image"),
        ({"guidance": "nowhere"}, "nowhere: there is no such folder"),
        ({"checkpoint": "nowhere"}, "nowhere: there is no such file or folder"),
        ({"size": "abc"}, "--size is 'abc'"),
        ({"size": "33"}, "size is 33x33"),
        ({"fps": "0"}, "--fps is 0"),
        ({"steps": "0"}, "steps is 0"),
        ({"out": "out.gif"}, "out.gif: videos are written as .mp4"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, change, message, capsys):
    assert command("animate", {**arguments, **change}) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_folder_without_a_kind_the_model_knows(arguments, capsys, tmp_path):
    (tmp_path / "motion" / "depth").rename(tmp_path / "motion" / "normal")
    assert command("animate", arguments) == 2
    assert "guided by depth, dwpose; the folder holds normal" in capsys.readouterr().err


def test_sizes():
    assert read_size(None) is None and read_size("96") == (96, 96) and read_size("128x64") == (128, 64)
    for wrong in ("0", "1x2x3", "x", "-8"):
        with pytest.raises(UserError, match="--size"):
            read_size(wrong)


def test_progress_prints_plain_lines_without_a_terminal(capsys):
    with progress("work", every=0) as on_progress:
        for done in range(1, 4):
            on_progress(done, 3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "work: 3/3, 0 s left" and len(lines) == 3
