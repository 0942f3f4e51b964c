"""Loaders: what a batch holds, and that its order survives a restart and does not depend on the number of hosts."""

import json

import numpy as np
import pytest

from champ_jax.config import REPOSITORY
from champ_jax.data.loader import make_loader
from champ_jax.data.music import rows_at
from champ_jax.data.records import open_records, write_records
from champ_jax.data.samples import spread
from champ_jax.data.transforms import Augment
from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.errors import UserError


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a.dtype == b.dtype and np.array_equal(a, b)


def test_batches_of_all_stages(records):
    b = next(make_loader(records, stage="B", batch_size=4, frames=2, size=32))
    assert b["video"].shape == (4, 2, 32, 32, 3) and b["reference"].shape == (4, 1, 32, 32, 3)
    assert set(b["guidance"]) == set(GUIDANCE_KINDS)
    assert all(m.shape == (4, 2, 32, 32, 3) and m.dtype == np.uint8 for m in b["guidance"].values())
    assert b["mask"].shape == (4, 2, 32, 32) and set(np.unique(b["mask"])) == {0, 1}
    assert b["face_box"].shape == (4, 2, 4) and b["face"].shape == (4, 2, 8) and b["music"].shape == (4, 2, 4)
    assert b["keypoints"].dtype == np.float32 and b["identity"].dtype == np.int32 and b["music_mask"].shape == (4,)
    c = next(make_loader(records, stage="C", batch_size=2, frames=3, stride=2, size=(32, 48), kinds=("dwpose",)))
    assert c["video"].shape == (2, 3, 32, 48, 3) and set(c["guidance"]) == {"dwpose"}
    np.testing.assert_allclose(np.diff(c["seconds"], axis=1), 4 / 24, atol=1e-6)
    a = next(make_loader(open_records(records.directory, "train+motion"), stage="A", batch_size=3, frames=8, size=32))
    assert b["record"].dtype == np.int32 and b["record"].shape == (4,)
    np.testing.assert_array_equal([records[number]["identity_id"] for number in b["record"]], b["identity"])
    assert "video" not in a and a["keypoints"].shape == (3, 8, 134, 2)
    np.testing.assert_array_equal(a["reference_keypoints"], a["keypoints"][:, 0])


def test_the_maps_of_a_sample_show_the_same_figure(records):
    loader = make_loader(records, stage="B", batch_size=4, frames=3, size=64, augment=Augment(crop=0.3), seed=5)
    for _ in range(5):
        b = next(loader)
        for kind in ("depth", "semantic_map", "normal"):
            assert (b["guidance"][kind].any(-1) == b["mask"]).mean() > 0.96
        left = (b["guidance"]["semantic_map"] == (200, 30, 30)).all(-1)
        right = (b["guidance"]["semantic_map"] == (30, 30, 200)).all(-1)
        columns = np.arange(64)
        assert (columns * left).sum() / left.sum() > (columns * right).sum() / right.sum()  # mirrored or not
        # Joint 5 was given 6 pixels to the right of joint 2 in every clip; so it must be in mirrored ones.
        assert (b["keypoints"][..., 5, 0] > b["keypoints"][..., 2, 0]).all()


def test_the_reference_is_never_a_target(records):
    loader = make_loader(records, stage="B", batch_size=4, frames=3, size=48, augment="none", kinds=())
    for _ in range(10):
        b = next(loader)
        assert (b["reference_keypoints"][:, 0, None, 0] != b["keypoints"][:, :, 0]).any(-1).all()


def test_resuming_continues_with_the_next_batch(records):
    """Row 15: the first batches end amid the second of several shuffled passes over the data."""

    def loader():
        return make_loader(records, stage="B", batch_size=4, frames=2, size=32, seed=3)

    straight = loader()
    assert len(straight) == 2
    batches = [next(straight) for _ in range(6)]
    assert len({tuple(batch["record"]) for batch in batches}) > 3, "shuffled"
    first = loader()
    for i in range(3):
        assert same(next(first), batches[i])
    state = json.loads(json.dumps(first.get_state()))
    second = loader()
    second.set_state(state)
    for i in range(3, 6):
        assert same(next(second), batches[i])
    other = make_loader(records, stage="B", batch_size=4, frames=2, size=32, seed=4)
    assert not same(next(other), batches[0])
    with pytest.raises(UserError, match="seed 3 -> 4"):
        other.set_state(state)


@pytest.mark.parametrize("count", [2, 4])
def test_hosts_share_the_same_global_batches(records, count):
    """Row 14: as many samples a step, in the same order, for any number of processes, also after a restart with another."""
    settings = dict(stage="A", frames=8, size=32, batch_size=4, seed=1)
    alone = make_loader(records, **settings)
    hosts = [make_loader(records, **settings, process=(p, count)) for p in range(count)]
    for step in range(6):
        parts = [next(loader) for loader in hosts]
        whole = next(alone)
        assert same({name: np.concatenate([part[name] for part in parts]) for name in whole}, whole)
        if step == 2:
            state = alone.get_state()
            for loader in hosts:
                assert loader.get_state() == state
                loader.set_state(state)
    with pytest.raises(UserError, match="cannot be shared among 3"):
        make_loader(records, **settings, process=(0, 3))


def test_an_epoch_sees_every_clip(records):
    loader = make_loader(records, stage="A", batch_size=4, frames=12, size=32)
    for _ in range(3):
        assert sorted(next(loader)["identity"]) == [0, 1, 2, 3]


def test_evaluation_is_one_ordered_pass(records):
    def batches():
        return list(make_loader(records, stage="C", batch_size=2, frames=3, size=48, train=False))

    first, second = batches(), batches()
    assert len(first) == 4 and all(same(a, b) for a, b in zip(first, second))
    assert [list(b["identity"]) for b in first] == [[0, 1], [2, 3], [0, 1], [2, 3]]
    clip = records[0]
    np.testing.assert_array_equal(first[0]["reference"][0, 0], clip.image("frames", clip["reference_index"]))
    np.testing.assert_array_equal(first[2]["video"][0, 0], clip.image("frames", 3))


def test_a_sample_can_bring_the_music_window_of_its_targets(records):
    loader = make_loader(records, stage="B", batch_size=4, frames=2, size=32, motion_frames=8)
    b = next(loader)
    motion = b["motion"]
    assert motion["keypoints"].shape == (4, 8, 134, 2)
    rows = np.arange(4)[:, None]
    np.testing.assert_array_equal(motion["keypoints"][rows, motion["index"]], b["keypoints"])
    np.testing.assert_array_equal(motion["seconds"][rows, motion["index"]], b["seconds"])
    with pytest.raises(UserError, match="3 motion frames hold only 2 stored frames"):
        next(make_loader(records, stage="B", batch_size=4, frames=4, size=32, motion_frames=3))


@pytest.mark.parametrize("fps, music_fps", [((24, 1), 24.0), ((24000, 1001), 24.0), ((24000, 1001), 30.0), ((25, 1), 60.0)])
def test_music_is_matched_by_seconds(tmp_path, make_example, fps, music_fps):
    """The features are their own time in seconds, so each row must read its frame's time."""
    write_records(tmp_path, "train", [make_example("a", frames=200, stored=4, fps=fps, music_fps=music_fps)])
    b = next(make_loader(open_records(tmp_path, "train"), stage="A", batch_size=1, frames=200, size=48, train=False))
    np.testing.assert_allclose(b["seconds"][0], np.arange(200) * fps[1] / fps[0], atol=1e-5)
    np.testing.assert_allclose(b["music"][0, :, 0], b["seconds"][0], atol=4e-3)  # float16 rows


def test_events_and_phases_survive_another_rate():
    rate, fps = 30.0, 24000 / 1001
    music = np.zeros((300, 192), np.float32)
    beats = np.arange(0, 300, 13)
    music[beats, 187] = 1
    angle = 2 * np.pi * np.arange(300) / 13
    music[:, 188], music[:, 189] = np.sin(angle), np.cos(angle)
    seconds = np.arange(200) / fps
    rows = rows_at(music, rate, seconds, 1 / fps, "rich192@30")
    assert set(np.unique(rows[:, 187])) == {0, 1}
    inside = beats[beats / rate < seconds[-1]]
    assert rows[:, 187].sum() == len(inside)
    np.testing.assert_allclose(np.hypot(rows[:, 188], rows[:, 189]), 1, atol=1e-5)
    np.testing.assert_allclose(rows[:, 188], np.sin(2 * np.pi * seconds * rate / 13), atol=0.02)


def test_clips_without_music_or_face_are_marked(tmp_path, make_example):
    silent = make_example("silent") | {"music": np.zeros((0, 0)), "music_spec": "", "face_emb": np.zeros((0, 0)), "face_valid": []}
    write_records(tmp_path, "train", [make_example("a"), silent])
    b = next(make_loader(open_records(tmp_path, "train"), stage="A", batch_size=2, frames=8, size=32, train=False))
    np.testing.assert_array_equal(b["music_mask"], [1, 0])
    assert not b["music"][1].any() and not b["face_valid"][1].any() and not b["reference_face"][1].any()


def test_unusable_data_is_refused_at_once(tmp_path, make_example, records):
    with pytest.raises(UserError, match=r"4 of 4 clips are shorter than the 7 frames .* c0 \(6\), c1 \(6\)"):
        make_loader(records, stage="C", batch_size=2, frames=7, size=32)
    with pytest.raises(UserError, match="zero samples"):
        make_loader(records, stage="C", batch_size=2, frames=7, size=32, skip_short=True)
    with pytest.raises(UserError, match="zero samples: no clip has 3 frames with pixels"):
        make_loader(open_records(records.directory, "motion"), stage="B", batch_size=2, frames=2, size=32)
    with pytest.raises(UserError, match="do not fill one batch of 64"):
        make_loader(records, stage="A", batch_size=64, frames=8, size=32, train=False)
    write_records(tmp_path / "x", "train", [make_example("a"), make_example("b", maps=False)])
    with pytest.raises(UserError, match=r"depth, normal, semantic_map, dwpose is asked for, .* b \(has none\)"):
        make_loader(open_records(tmp_path / "x", "train"), stage="B", batch_size=2, frames=2, size=32)
    next(make_loader(open_records(tmp_path / "x", "train"), stage="B", batch_size=2, frames=2, size=32, kinds=("dwpose",)))
    mixed = make_example("c") | {"music_spec": "rich192@24", "music": np.zeros((13, 192))}
    write_records(tmp_path / "y", "train", [make_example("a"), mixed])
    with pytest.raises(UserError, match="music_spec differs between clips"):
        make_loader(open_records(tmp_path / "y", "train"), stage="A", batch_size=2, frames=8, size=32)


def test_damage_found_while_loading_is_reported_as_such(tmp_path, make_example):
    example = make_example("a")
    example["frames"] = [b"garbage"] * 6
    write_records(tmp_path, "train", [example])
    with pytest.raises(UserError, match="field frames, image"):
        next(make_loader(open_records(tmp_path, "train"), stage="B", batch_size=2, frames=2, size=32))


def test_reading_ahead_changes_nothing(records):
    settings = dict(stage="A", frames=8, size=32, batch_size=4, seed=1)
    ahead, asked = make_loader(records, **settings), make_loader(records, **settings, threads=0)
    for _ in range(6):
        assert same(next(ahead), next(asked))
    assert ahead.get_state() == asked.get_state()


def test_references_differ_in_pose_and_are_no_targets(records):
    """The first as with one; the rest far from it and from each other; of a draw, the first few count."""
    loader = make_loader(records, stage="B", batch_size=4, frames=2, size=48, augment="none", kinds=(), references=3)
    counts = set()
    for _ in range(8):
        b = next(loader)
        assert b["reference"].shape == (4, 3, 48, 48, 3) and b["reference_keypoints"].shape == (4, 3, 134, 2)
        noses = b["reference_keypoints"][:, :, 0]
        assert (noses[:, :, None] != b["keypoints"][:, None, :, 0]).any(-1).all()
        assert len({tuple(nose) for nose in noses.reshape(-1, 2).tolist()}) > 4
        counts |= set(b["reference_weight"].sum(1).tolist())
        assert (np.diff(b["reference_weight"], axis=1) <= 0).all()
    assert counts == {1, 2, 3}
    ordered = dict(stage="B", batch_size=4, frames=2, size=48, kinds=(), train=False)
    one, three = (next(make_loader(records, **ordered, references=count)) for count in (1, 3))
    np.testing.assert_array_equal(one["reference"][:, 0], three["reference"][:, 0])
    assert three["reference_weight"].all()


def test_references_are_spread_over_poses():
    """The first is the given one; each further one is the pose least like those before, whatever the order of the choices."""
    clip = open_records(REPOSITORY / "assets" / "dancers", "test")[0]
    poses = clip.keypoints(clip["frame_index"])[0]
    apart = np.linalg.norm((poses - poses[:, [1]])[:, :14] - (poses[0] - poses[0, 1])[:14], axis=(1, 2))
    far = int(apart.argmax())
    assert spread(clip, np.array([0, 0, far]), 0, 2).tolist() == [0, far]
    chosen = spread(clip, np.arange(clip.stored), 5, 4)
    assert chosen[0] == 5 and len(set(chosen.tolist())) == 4
    assert set(spread(clip, np.arange(clip.stored)[::-1], 5, 4).tolist()) == set(chosen.tolist())
    assert spread(clip, np.arange(clip.stored), 7, 1).tolist() == [7]
