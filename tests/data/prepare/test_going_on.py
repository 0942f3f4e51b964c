"""What `prepare` finds done already: after kills and interruptions, in shares, with changed files, settings and people."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from champ_jax.cli.main import main
from champ_jax.data.prepare import run
from champ_jax.data.prepare.layouts import find
from champ_jax.data.prepare.piece import Settings
from champ_jax.data.prepare.run import PARTS, cut, prepare, stamp_of
from champ_jax.data.records import open_records, splits_of, write_records
from champ_jax.errors import RESUMABLE
from tests.data.prepare.test_prepare import COMMAND, SETTINGS, bytes_of, folder, records_of, video


def start(*arguments) -> subprocess.Popen:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", "champ_jax", "prepare", *map(str, arguments), *COMMAND], env=environment, stdout=subprocess.DEVNULL
    )


def test_killed_at_random_it_goes_on_to_the_same_bytes(tmp_path):
    source = tmp_path / "in"
    for number in range(3):
        video(source / f"{number}.mkv", 4.0)
    assert start(source, "--out", tmp_path / "whole").wait() == 0
    rng = np.random.default_rng(0)
    for done in (1, 3, 5, 8):  # pieces of 12
        process = start(source, "--out", tmp_path / "killed", "--workers", "2")
        while process.poll() is None and len(list((tmp_path / "killed" / PARTS).glob("[!.]*"))) < done:
            time.sleep(0.02)
        time.sleep(0.3 * rng.random())
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert start(source, "--out", tmp_path / "killed", "--workers", "2").wait() == 0
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    assert not (tmp_path / "killed" / PARTS).exists()


def test_shards_make_what_one_process_makes(tmp_path):
    source = tmp_path / "in"
    for number in range(2):
        video(source / f"{number}.mkv", 2.0)
    arguments = lambda out: ["prepare", str(source), "--out", str(out), *COMMAND]  # noqa: E731
    assert main(arguments(tmp_path / "one")) == 0
    assert main([*arguments(tmp_path / "two"), "--shard", "1/2"]) == 0
    assert not (tmp_path / "two" / "dataset_info.json").exists()
    assert main([*arguments(tmp_path / "two"), "--shard", "0/2"]) == 0
    assert main([*arguments(tmp_path / "two"), "--shard", "0/2", "--no-resume"]) == 0  # which leaves the other share's
    assert main(arguments(tmp_path / "two")) == 0
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


@pytest.mark.parametrize(("more", "words"), [([], "same command goes on"), (["--no-resume"], "same command without --no-resume goes on")])
@pytest.mark.parametrize("where", ["cut", "prepare", "publish"])
def test_interrupted_anywhere_the_same_command_goes_on(where, more, words, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    video(tmp_path / "in" / "a.mkv")
    command = ["prepare", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *COMMAND]
    with monkeypatch.context() as patch:
        patch.setattr(run, where, interrupted)
        assert main([*command, *more]) == RESUMABLE
    assert words in capsys.readouterr().err
    assert main(command) == 0
    assert "nobody was chosen for validation" in capsys.readouterr().out


def test_a_finished_piece_is_not_done_again_unless_its_source_changed(tmp_path):
    path = video(tmp_path / "in" / "a.mkv")
    found = find(tmp_path / "in")
    done = []
    for _ in range(2):
        pieces, _ = cut(found, SETTINGS)
        prepare(pieces, SETTINGS, tmp_path / "out", progress=lambda *row: done.append(row))
    assert len(done) == 1
    os.utime(path, (time.time() + 9, time.time() + 9))
    prepare(cut(found, SETTINGS)[0], SETTINGS, tmp_path / "out", progress=lambda *row: done.append(row))
    assert len(done) == 2


def test_a_better_model_under_the_old_name_is_another(tmp_path):
    model, folder = tmp_path / "depth.onnx", tmp_path / "dwpose"
    folder.mkdir()
    settings, seen = Settings(estimator=str(folder), maps=(("depth", str(model)),)), []
    for place in (model, folder / "yolox_l.onnx"):
        for content in (b"first", b"again"):
            place.write_bytes(content)
            os.utime(place, ns=(len(seen), len(seen)))
            seen.append(settings.fingerprint())
    os.utime(model, ns=(99, 99))  # of another host
    assert len(set(map(str, seen))) == 4 and settings.fingerprint() == seen[-1]


def test_a_source_has_changed_with_any_of_its_files(tmp_path):
    clip = folder(tmp_path / "in" / "P00002", range(3), maps=(), poses=False)
    (clip / "keypoints").mkdir()
    stamps = []
    for name, text in (
        ("keypoints/frame_0.json", "{}"),
        ("keypoints/frame_0.json", '{"people": []}'),
        ("music_features.npy", "rows"),
        ("music_features.json", '{"spec": "mert768", "fps": 75}'),
        ("license.txt", "CC0"),
    ):
        (clip / name).write_text(text)
        stamps.append(stamp_of(find(tmp_path / "in").sources[0]))
    assert len(set(stamps)) == 5


def test_the_same_command_again_does_nothing(tmp_path, capsys):
    path = video(tmp_path / "in" / "a.mkv")
    arguments = ["prepare", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *COMMAND]
    assert main(arguments) == 0
    before = (tmp_path / "out" / "dataset_info.json").stat().st_mtime_ns
    assert main(arguments) == 0 and "nothing to do" in capsys.readouterr().out
    assert (tmp_path / "out" / "dataset_info.json").stat().st_mtime_ns == before
    os.utime(path, (1, 1))
    assert main(arguments) == 0 and "nothing to do" not in capsys.readouterr().out


def test_a_changed_share_leaves_no_split_behind(tmp_path):
    """Otherwise people who are trained on would still be in the old validation split."""
    for name in "abcdef":
        video(tmp_path / "in" / name / "v.mkv")
    outcome, _ = records_of(tmp_path / "in", tmp_path / "out", dataclasses.replace(SETTINGS, validation=0.5))
    assert set(outcome.clips) == {"train", "validation"}
    outcome, _ = records_of(tmp_path / "in", tmp_path / "out")
    assert outcome.clips == {"train": 6} and splits_of(tmp_path / "out") == ["train"]
    assert not list((tmp_path / "out").glob("*validation*"))


def test_records_that_were_made_otherwise_are_not_replaced(tmp_path, capsys, make_example):
    write_records(tmp_path / "out", "train", [make_example("precious")])
    video(tmp_path / "in" / "a.mkv")
    assert main(["prepare", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *COMMAND]) == 2
    assert "made otherwise" in capsys.readouterr().err
    assert open_records(tmp_path / "out", "train").infos[0].clip_id == "precious"


def test_somebody_new_changes_nobody_elses_pieces(tmp_path):
    video(tmp_path / "in" / "m.mkv")
    before, _ = cut(find(tmp_path / "in"), SETTINGS)
    video(tmp_path / "in" / "a.mkv")
    after, _ = cut(find(tmp_path / "in"), SETTINGS)
    assert before[0] in after and len({piece.identity for piece in after}) == 2
