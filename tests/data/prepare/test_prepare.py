"""From a folder to records: what is read, what is left out, and that a run which is killed goes on to the same bytes."""

import dataclasses
import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from champ_jax.cli.main import main
from champ_jax.data.prepare.check_records import check_records
from champ_jax.data.prepare.layouts import find
from champ_jax.data.prepare.piece import Settings
from champ_jax.data.prepare.run import PARTS, cut, prepare, publish, split_of
from champ_jax.data.prepare.source import Source
from champ_jax.data.records import open_records, splits_of
from champ_jax.errors import UserError
from champ_jax.pose.draw import draw
from champ_jax.pose.skeleton import J
from tests.data.films import clicks, counting, film, number_of

SIZE, STRIPE = (96, 64), 12
SETTINGS = Settings(estimator="none", faces="none", music="none", size=64, validation=0.0)


def standing(frames: int, size=SIZE) -> tuple[np.ndarray, np.ndarray]:
    """(keypoints f32 [F,134,2], confidence f32 [F,134]) of somebody who stands and sways."""
    from champ_jax.infer.photo import standing_body

    keypoints, confidence = standing_body(size)
    sway = 3 * np.sin(np.arange(frames) / 5)
    return keypoints + np.stack([sway, 0 * sway], -1)[:, None].astype(np.float32), np.repeat(confidence[None], frames, 0)


def video(path: Path, seconds: float = 2.0, fps: int = 30, poses: bool = True, sound: bool = False, size=SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = round(seconds * fps)
    frames = np.full((count, *size, 3), 90, np.uint8)
    frames[:, :STRIPE] = counting(100, (STRIPE, size[1]))[np.arange(count) % 100]  # a small change is no cut
    film(path, frames, fps, clicks([i * 0.5 for i in range(int(2 * seconds))], seconds) if sound else None, codec="libx264")
    if poses:
        keypoints, confidence = standing(count, size)
        np.savez(path.with_suffix(".npz"), keypoints=keypoints, confidence=confidence, size=size, fps=fps)
    return path


def folder(
    path: Path, frames=range(36), maps=("depth", "normal", "semantic_map", "mask"), images="images", poses: bool = True, size=SIZE
) -> Path:
    """A clip as CHAMP lays it out, with grey, transparent and 16-bit files among the rest."""
    keypoints, confidence = standing(max(frames) + 1, size)
    rng = np.random.default_rng(0)
    for number in frames:
        for name, mode in ((images, "RGBA"), *((kind, "L" if kind in ("depth", "mask") else "RGB") for kind in maps), ("dwpose", "RGB")):
            (path / name).mkdir(parents=True, exist_ok=True)
            array = np.full((*size, {"RGB": 3, "RGBA": 4, "L": 1}[mode]), 255, np.uint8)
            if name == "dwpose":
                array = draw(keypoints[number], confidence[number], size)
            elif name != "mask":
                array[..., :3] = rng.integers(30, 220, array[..., :3].shape)
            else:
                array[:, : size[1] // 2] = 0
            Image.fromarray(array.squeeze()).save(path / name / f"frame_{number}.png")
    if poses:  # a row for each frame that is there
        np.savez(path / "keypoints.npz", keypoints=keypoints[list(frames)], confidence=confidence[list(frames)], size=size)
    return path


def records_of(source: Path, out: Path, settings: Settings = SETTINGS, workers: int = 1):
    found = find(source)
    pieces, refused = cut(found, settings, lambda text: None)
    prepare(pieces, settings, out, workers)
    return publish(pieces, settings, out), refused


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file() and path.suffix != ".html"}


def test_videos(tmp_path):
    video(tmp_path / "in" / "a.mkv", 2.5, sound=True)
    (tmp_path / "in" / "license.txt").write_text("CC BY 4.0")
    settings = Settings(estimator="none", faces="none", size=64, clip_seconds=1.0, least_seconds=0.5, validation=0.0)
    outcome, _ = records_of(tmp_path / "in", tmp_path / "out", settings)
    records = open_records(tmp_path / "out", "train")
    assert outcome.clips == {"train": 3} and [info.n_frames for info in records.infos] == [25, 25, 25]
    clip = records[1]
    assert clip.size == (96, 64) and clip.stored == 25 and clip["license"] == "CC BY 4.0" and clip["music_spec"] == "rich192@30"
    assert len(clip["music"]) == 25 and clip["beats_s"].max() < 25 / 30
    true, confidence = standing(75)
    found, seen = clip.keypoints(np.arange(25))
    np.testing.assert_array_equal(seen > 0.3, confidence[25:50] > 0.3)
    np.testing.assert_allclose(found[seen > 0.3], true[25:50][seen > 0.3], atol=0.6)
    assert [number_of(clip.image("frames", i)[: STRIPE - 2]) for i in range(25)] == list(range(25, 50))
    assert check_records(tmp_path / "out")[1] == {}


def test_champ_folders_with_maps_and_a_gap(tmp_path):
    folder(tmp_path / "in" / "part" / "whole")
    folder(tmp_path / "in" / "part" / "gap", [*range(36), *range(40, 76)], maps=())
    bad = folder(tmp_path / "in" / "part" / "bad")
    (bad / "depth" / "frame_7.png").unlink()
    outcome, refused = records_of(tmp_path / "in", tmp_path / "out")
    assert "frame_7.png" in refused["part_bad"]
    records = open_records(tmp_path / "out", "train")
    clips = {info.clip_id: records[number] for number, info in enumerate(records.infos)}
    assert [clip.n_frames for clip in clips.values()] == [36, 36, 36], list(clips)
    after = next(clip for name, clip in clips.items() if "gap" in name and name.endswith("02"))
    true, confidence = standing(76)
    found, seen = after.keypoints(np.arange(36))
    np.testing.assert_allclose(found[seen > 0.3], true[40:][seen > 0.3], atol=0.6)
    whole = next(clip for name, clip in clips.items() if "whole" in name)
    assert whole["depth"] and whole["normal"] and whole["semantic_map"]
    semantic = whole.image("semantic_map", 0)
    assert (semantic[:, :32] == 0).all() and (semantic[:, 34:] > 0).any()  # the mask blackens what is nobody
    depth = np.asarray(Image.open(tmp_path / "in" / "part" / "whole" / "depth" / "frame_10.png"))
    np.testing.assert_array_equal(whole.image("depth", 10), depth)
    assert check_records(tmp_path / "out")[1] == {}


def test_drawn_skeletons_are_read_where_nothing_else_is_left(tmp_path):
    size = (640, 360)
    folder(tmp_path / "in" / "P00002", maps=(), poses=False, size=size)
    records_of(tmp_path / "in", tmp_path / "out", dataclasses.replace(SETTINGS, size=360))
    clip = open_records(tmp_path / "out", "train")[0]
    true, confidence = standing(36, size)
    found, sure = clip.keypoints(np.arange(36))
    joints = [3, 4, 6, 7, 9, 10, 12, 13]
    assert (sure[:, joints] > 0.4).mean() > 0.9 and (sure <= 0.51).all() and (sure[:, 18:] == 0).all()
    error = np.linalg.norm(found - true, axis=-1)[:, joints][sure[:, joints] > 0.4]
    assert np.median(error) < 2


@pytest.mark.parametrize("form", ["json", "npz"])
def test_poses_that_do_not_say_their_size_are_in_pixels_of_the_frames_as_they_are(tmp_path, form):
    size, frames = (192, 128), 36
    clip = folder(tmp_path / "in" / "P00002", range(frames), maps=(), poses=False, size=size)
    true, confidence = standing(frames, size)
    if form == "npz":
        np.savez(clip / "keypoints.npz", keypoints=true, confidence=confidence)
    else:
        (clip / "keypoints").mkdir()
        for number in range(frames):
            parts = {"pose": slice(0, 18), "face": slice(24, 92), "hand_left": slice(92, 113), "hand_right": slice(113, 134)}
            rows = np.concatenate([true[number], confidence[number, :, None]], -1)
            person = {f"{name}_keypoints_2d": rows[part].ravel().tolist() for name, part in parts.items()}
            (clip / "keypoints" / f"frame_{number}.json").write_text(json.dumps({"people": [person]}))
    records_of(tmp_path / "in", tmp_path / "out")
    record = open_records(tmp_path / "out", "train")[0]
    found, seen = record.keypoints(np.arange(frames))
    assert record.size == (96, 64) and (seen[:, :18] > 0.3).any()
    np.testing.assert_allclose(found[seen > 0.3], true[seen > 0.3] / 2, atol=0.6)


def test_frames_of_different_sizes_are_named(tmp_path):
    clip = folder(tmp_path / "in" / "part" / "clip", maps=())
    Image.new("RGB", (80, 96)).save(clip / "images" / "frame_9.png")
    folder(tmp_path / "in" / "part" / "good", maps=())
    outcome, _ = records_of(tmp_path / "in", tmp_path / "out")
    assert outcome.clips == {"train": 1} and any("frame_9.png" in reason for reason in outcome.dropped.values())


def test_broken_files_among_good_ones(tmp_path):
    good = video(tmp_path / "in" / "good.mkv")
    for name, data in (
        ("empty", b""),
        ("noise", b"\x80" * 9999),
        ("cut", good.read_bytes()[:400]),
        ("list", b"#EXTM3U\nhttp://127.0.0.1/"),
    ):
        (tmp_path / "in" / f"{name}.mp4").write_bytes(data)
    os.mkfifo(tmp_path / "in" / "pipe.mp4")
    video(tmp_path / "in" / "unposed.mkv", poses=False)
    video(tmp_path / "in" / "short.mkv", 0.4)
    outcome, refused = records_of(tmp_path / "in", tmp_path / "out")
    assert outcome.clips == {"train": 1} and set(refused) == {"empty", "noise", "cut", "list", "pipe", "short"}
    assert any("no poses are given" in reason for reason in outcome.dropped.values())


def test_nobody_there(tmp_path):
    path = video(tmp_path / "in" / "a.mkv")
    np.savez(path.with_suffix(".npz"), keypoints=np.zeros((60, J, 2)), confidence=np.zeros((60, J)), size=SIZE, fps=30)
    with pytest.raises(UserError, match="nobody is found"):
        records_of(tmp_path / "in", tmp_path / "out")


def test_people_stay_in_one_split():
    sources = [Source(f"{name}{number}", "videos", Path("a"), subject=name) for name in "abcdefghijklmnop" for number in range(3)]
    splits = {source.name: split_of(source, 0.3) for source in sources}
    assert {"train", "validation"} == set(splits.values())
    assert all(len({splits[f"{name}{number}"] for number in range(3)}) == 1 for name in "abcdefghijklmnop")
    assert split_of(Source("x", "aist", Path("a"), part="test"), 0.3) == "test"


COMMAND = [
    "--estimator",
    "none",
    "--faces",
    "none",
    "--music",
    "none",
    "--size",
    "64",
    "--clip-seconds",
    "1",
    "--least-seconds",
    "0.5",
    "--validation",
    "0",
]


def test_the_command_prints_writes_a_sheet_and_checks(tmp_path, capsys):
    video(tmp_path / "in" / "a.mkv")
    (tmp_path / "in" / "b.mp4").write_bytes(b"")
    assert main(["prepare", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *COMMAND, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["splits"]["train"]["clips"] == 2 and "empty" in result["dropped"]["b"]
    page = Path(result["sheet"]).read_text()
    assert "a_0000_00" in page and "empty" in page and len(list((tmp_path / "out" / "sheet").glob("*.jpg"))) == 2
    assert main(["prepare", "--check", str(tmp_path / "out")]) == 0
    assert "all clips can be trained on" in capsys.readouterr().out
    assert splits_of(tmp_path / "out") == ["train"]


def test_wrong_words(tmp_path, capsys):
    video(tmp_path / "in" / "a.mkv")
    for words, told in (
        (["prepare"], "needs a folder"),
        (["prepare", str(tmp_path / "in"), "--out", str(tmp_path / "in" / "out")], "give a folder elsewhere"),
        (["prepare", str(tmp_path / "in"), "--out", str(tmp_path / "o"), "--least-seconds", "9"], "at most half of that"),
        (["prepare", str(tmp_path / "in"), "--out", str(tmp_path / "o"), "--estimator", "absent"], "expected 'mediapipe'"),
        (["prepare", str(tmp_path / "in"), "--out", str(tmp_path / "o"), "--estimator", "none", "--maps", "depth"], "KIND=FILE"),
        (
            ["prepare", str(tmp_path / "in"), "--out", str(tmp_path / "o"), "--estimator", "none", "--maps", "depth=absent.onnx"],
            "absent.onnx",
        ),
        (["prepare", "--check", str(tmp_path / "o")], "no records here"),
    ):
        assert main(words) == 2
        assert told in capsys.readouterr().err


def test_aist_annotations_teach_motion_alone(tmp_path):
    import pickle

    import soundfile

    from tests.data.prepare.test_soundtrack import drums

    rng = np.random.default_rng(0)
    points = np.cumsum(rng.normal(0, 2, (9, 600, 17, 3)), 1) + 500
    points[..., 2] = 0.9
    name = "gBR_sBM_cAll_d04_mBR0_ch01"
    (tmp_path / "in" / "keypoints2d").mkdir(parents=True)
    (tmp_path / "in" / "keypoints2d" / f"{name}.pkl").write_bytes(pickle.dumps({"keypoints2d": points}))
    (tmp_path / "in" / "music").mkdir()
    soundfile.write(tmp_path / "in" / "music" / "mBR0.wav", drums(10.0), 48_000)
    outcome, _ = records_of(tmp_path / "in", tmp_path / "out", dataclasses.replace(SETTINGS, music="rich192"))
    clip = open_records(tmp_path / "out", "train")[0]
    assert (
        outcome.clips == {"train": 1} and clip.n_frames == 300 and clip.stored == 0 and clip["style_id"] == 0 and clip["song_id"] == "mBR0"
    )
    assert len(clip["music"]) == 300 and len(clip["audio_ogg"]) == 0 and "CC BY 4.0" in clip["license"]
    np.testing.assert_allclose(clip.keypoints(np.array([100]))[0][0, 0], points[0, 200, 0, :2], atol=3)


def test_records_go_through_and_tfds_reads_them(tmp_path):
    import tensorflow_datasets as tfds

    video(tmp_path / "in" / "a.mkv")
    records_of(tmp_path / "in", tmp_path / "one")
    two = tmp_path / "champ_clips" / "1.0.0"  # where tfds looks for a name
    records_of(tmp_path / "one", two)
    assert bytes_of(tmp_path / "one") == bytes_of(two)
    for builder in (tfds.builder_from_directory(two), tfds.builder("champ_clips", data_dir=tmp_path)):
        examples = builder.as_data_source("train")
        assert len(examples) == 1 and examples[0]["kps"].shape == (60, J, 2) and examples[0]["frames"][0].shape == (96, 64, 3)


def test_what_a_library_finds_wrong_with_one_clip_does_not_end_the_others(tmp_path, monkeypatch):
    from champ_jax.data.prepare import run as module

    video(tmp_path / "in" / "a.mkv")
    video(tmp_path / "in" / "b.mkv")
    real = module.prepare_piece

    def fails(piece, settings, tools):
        if piece.source.name == "a":
            raise ZeroDivisionError("of a library")
        return real(piece, settings, tools)

    monkeypatch.setattr(module, "prepare_piece", fails)
    outcome, _ = records_of(tmp_path / "in", tmp_path / "out")
    assert outcome.clips == {"train": 1} and outcome.dropped["a"] == "ZeroDivisionError: of a library"


def test_an_estimator_that_ends_is_no_fault_of_the_clip(tmp_path, monkeypatch):
    from champ_jax.data.estimate.people import EstimatorLost
    from champ_jax.data.prepare import run as module

    video(tmp_path / "in" / "a.mkv")

    def lost(*arguments):
        raise EstimatorLost("MediaPipe ended")

    monkeypatch.setattr(module, "prepare_piece", lost)
    with pytest.raises(EstimatorLost):
        records_of(tmp_path / "in", tmp_path / "out")
    assert not list((tmp_path / "out" / PARTS).iterdir())


def test_folders_of_another_rate_with_features_a_frame(tmp_path):
    """25 frames a second, and a gap: the features after it keep their places."""
    clip = folder(tmp_path / "in" / "P00002", [*range(30), *range(35, 65)], maps=())
    (clip / "music_features").mkdir()
    for number in (*range(30), *range(35, 65)):
        np.save(clip / "music_features" / f"frame_{number}.npy", np.full(35, number / 64))
    settings = dataclasses.replace(SETTINGS, fps=Fraction(25), music="rich192")
    pieces, _ = cut(find(tmp_path / "in", frames_fps=Fraction(25)), settings)
    prepare(pieces, settings, tmp_path / "out")
    publish(pieces, settings, tmp_path / "out")
    records = open_records(tmp_path / "out", "train")
    assert [info.n_frames for info in records.infos] == [30, 30] and records.infos[0].music_spec == "frames35@25"
    np.testing.assert_allclose(records[1]["music"][:, 0], np.arange(35, 65) / 64, atol=1e-3)
    pieces, _ = cut(find(tmp_path / "in"), settings)  # 30 a second
    prepare(pieces, settings, tmp_path / "other")
    with pytest.raises(UserError, match="prepare with --fps 30"):
        publish(pieces, settings, tmp_path / "other")
