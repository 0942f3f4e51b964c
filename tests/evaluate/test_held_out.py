"""Held-out clips from the committed records: what is read belongs together, and the data scores as data should."""

import json

import numpy as np
import pytest

from champ_jax.config import REPOSITORY
from champ_jax.data.records import open_records
from champ_jax.errors import UserError
from champ_jax.evaluate import held_out

DANCERS = REPOSITORY / "assets" / "dancers"
SIZE = (96, 96)


@pytest.fixture(scope="module")
def clips():
    records = open_records(DANCERS, "test")
    return [held_out.read_clip(records[number], SIZE, 3) for number in range(3)]


def test_a_clip_is_read_whole(clips):
    clip = clips[0]
    assert clip.truth.frames.shape == (3, *SIZE, 3) and clip.truth.mask.shape == (3, *SIZE)
    assert set(clip.guidance) == {"depth", "normal", "semantic_map", "dwpose"} and clip.fps == 12
    outside = clip.truth.semantic_map[clip.truth.mask == 0]
    assert not outside.any() and clip.truth.semantic_map[clip.truth.mask == 1].any(-1).mean() > 0.99


def test_true_frames_show_the_right_one_of_eight_people(clips):
    judge = held_out.make_judge(DANCERS, SIZE)
    assert len(judge.identities) >= 8
    right = [judge.right(clip.truth.frames, clip.truth.semantic_map, clip.truth.identity) for clip in clips]
    assert np.mean(right) == 1
    outputs = {"truth": [clip.truth.frames for clip in clips], "copy": held_out.copies(clips)}
    results = held_out.score_outputs(outputs, clips, judge)
    truth, copy = ({row["name"]: row["value"] for row in results[name]["metrics"]} for name in outputs)
    assert truth["identity_top1"] == 1 and truth["ssim_person"] > 0.999
    assert copy["psnr_person"] < 20


def test_the_data_has_the_datas_energy():
    records = open_records(DANCERS, "train")
    energies = []
    for number in (0, len(records) - 1):
        clip = records[number]
        keypoints, confidence = clip.keypoints(np.arange(clip.n_frames))
        dance = {"keypoints": keypoints, "confidence": confidence, "motion_fps": 1 / clip.frame_seconds}
        energies.append(held_out.score_dance(dance, np.arange(10) * 0.5, records)["energy_ratio"])
    assert all(0.2 < energy < 5 for energy in energies)


def test_contact_sheet():
    videos = [np.zeros((5, 4, 6, 3), np.uint8)] * 3
    assert held_out.contact_sheet([videos, videos], picks=2).shape == (3 * 2 * 4 * 2, 2 * 6 * 2, 3)


def test_held_out_song(tmp_path):
    with pytest.raises(UserError, match="held_out"):
        held_out.held_out_song(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps({"held_out": False, "beats_s": [1]}))
    (tmp_path / "b.json").write_text(json.dumps({"held_out": True, "beats_s": [0.5, 1.0]}))
    song, beats = held_out.held_out_song(tmp_path)
    assert song.name == "b.ogg" and beats.tolist() == [0.5, 1.0]


def test_photos_from_after_the_frames_that_are_animated():
    clip = open_records(DANCERS, "test")[0]
    photos = held_out.photos_after(clip, 12, 3)
    assert len(set(photos.tolist())) == 3 and photos.min() >= 12
    with pytest.raises(UserError, match="24 stored frames, and 3 photos after frame 22"):
        held_out.photos_after(clip, 22, 3)
    read = held_out.read_clip(clip, SIZE, 12, photos=photos)
    assert read.photos.shape == (3, *SIZE, 3) and len(read.poses) == 3
    np.testing.assert_array_equal(read.photos[0], read.truth.photo)


def test_flow_is_exact_and_only_at_the_clips_own_size():
    clip = open_records(DANCERS, "test")[0]
    read = held_out.read_clip(clip, SIZE, 6)
    forward, seen = read.flow.forward, read.flow.seen
    assert forward.shape == (5, *SIZE, 2) and seen.shape == (5, *SIZE) and seen.mean() > 0.9
    assert not seen[read.truth.mask[:-1] > 0].all()
    frames = read.truth.frames.astype(np.float32)
    rows, columns = np.indices(SIZE)
    moved, still = [], []
    for here, there, flow, where, mask in zip(frames, frames[1:], forward, seen, read.truth.mask):
        x, y = (np.rint(place).astype(int) for place in (columns + flow[..., 0], rows + flow[..., 1]))
        person = where & (mask > 0)
        moved.append(np.abs(there[y.clip(0, 95), x.clip(0, 95)] - here)[person].mean())
        still.append(np.abs(there - here)[person].mean())
    assert np.mean(moved) < 0.6 * np.mean(still)
    assert held_out.read_clip(clip, (64, 64), 6).flow is None
