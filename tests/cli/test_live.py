"""`champ-jax live`: a file that plays, figures, an interruption that keeps what was made, and clear refusals."""

import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from champ_jax.cli.live import Playing
from champ_jax.cli.main import main
from champ_jax.infer.film import Film
from champ_jax.infer.video import read_video
from tests.infer.tiny import SIZE, TINY_M2P, save_tiny, tiny_config

RATE = 16_000


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    save_tiny(folder / "model", tiny_config(TINY_M2P), motion_window=24, steps=1, guidance_scale=1.0)
    Image.fromarray(np.full((*SIZE, 3), 120, np.uint8)).save(folder / "photo.png")
    soundfile.write(folder / "song.wav", 0.2 * np.random.default_rng(0).standard_normal((2 * RATE, 2)), RATE)
    return folder


def live(inputs, out, *options):
    given = {"--checkpoint": "model", "--image": "photo.png", "--music": "song.wav"}
    paths = [word for name, file in given.items() for word in (name, str(inputs / file))]
    return main(["live", *paths, "--out", str(out), "--hop", "2", "--context", "2", "--json", *options])


def test_a_song_is_played_for_the_seconds_asked_for():
    heard = []
    song = Playing(iter([np.zeros(1000)] * 5), 1000, 2.3, fast=True)
    song.heard_by = heard.append
    assert [len(block) for block in song] == [1000, 1000, 300]
    assert sum(map(len, heard)) == song.samples == 2300 and song.waited == 0


def test_at_the_songs_pace_and_interrupted(inputs, tmp_path, capsys, monkeypatch):
    drawn, whole = [], Film.add

    def add(self, frames):
        drawn.append(frames)
        if len(drawn) == 5:
            raise KeyboardInterrupt
        whole(self, frames)

    monkeypatch.setattr(Film, "add", add)
    assert live(inputs, tmp_path / "live.mp4") == 130
    captured = capsys.readouterr()
    assert "stopped" in captured.err
    result = json.loads(captured.out)
    assert result["frames"] == 5 and result["first_frame_delay"] > 0.25
    assert len(read_video(tmp_path / "live.mp4")[0]) == 4


def test_refusals_leave_nothing(inputs, tmp_path, capsys):
    out = tmp_path / "live.mp4"
    for options, words in (
        (("--seconds", "0"), "--seconds"), (("--hop", "0"), "hop"), (("--music", str(inputs / "none.wav")), "no song at"),
        (("--music", str(inputs / "photo.png")), "not audio"),
    ):  # fmt: skip
        assert live(inputs, out, *options) == 2
        assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
