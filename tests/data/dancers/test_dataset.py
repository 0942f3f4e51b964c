"""Rendered clips: every ground truth against every other, and records made of them."""

import cv2
import numpy as np
import pytest

from champ_jax.data.dancers import dataset as dancers
from champ_jax.data.dancers.clothes import PARTS
from champ_jax.data.dancers.dataset import ClipPlan, make_dataset, plan_split
from champ_jax.data.dancers.identity import sample_identity
from champ_jax.data.dancers.mocap import load_motion
from champ_jax.data.dancers.render import PART_COLOURS, perform, render_clip
from champ_jax.data.dancers.scene import Background, Camera, Light
from champ_jax.errors import UserError

SIZE = (96, 96)
CAMERA = Camera(azimuth=20)
FRAMES = np.arange(0, 12, 2)


def scene(identity=4, frames=FRAMES, **changes):
    arguments = {"camera": CAMERA, "light": Light(), "background": Background("gradient", 1), "size": SIZE} | changes
    motion = load_motion("dance_b").slice(0, 18)
    return render_clip(
        sample_identity(identity), motion, arguments["camera"], arguments["light"], arguments["background"], frames, arguments["size"]
    )


@pytest.fixture(scope="module")
def clip():
    return scene()


def test_shapes_and_types(clip):
    count, steps = len(FRAMES), 18
    expected = {
        "frames": (count, *SIZE, 3),
        "depth": (count, *SIZE),
        "metric_depth": (count, *SIZE),
        "normal": (count, *SIZE, 3),
        "semantic_map": (count, *SIZE, 3),
        "mask": (count, *SIZE),
        "flow": (count, *SIZE, 2),
        "kps": (steps, 134, 2),
        "kps_conf": (steps, 134),
        "face_box": (steps, 4),
        "bbox": (steps, 4),
        "contacts": (steps, 4),
        "depth_range": (count, 2),
    }
    assert {name: clip[name].shape for name in expected} == expected
    assert clip["frames"].dtype == np.uint8 and clip["metric_depth"].dtype == np.float32


def test_all_maps_agree_on_where_the_person_is(clip):
    mask = clip["mask"] > 0
    for name in ("depth", "metric_depth"):
        np.testing.assert_array_equal(clip[name] > 0, mask)
    np.testing.assert_array_equal(clip["semantic_map"].any(-1), mask)
    np.testing.assert_array_equal(clip["normal"].any(-1), mask)
    assert (clip["flow"][~mask] == 0).all()
    colours = {tuple(c) for c in clip["semantic_map"][mask].tolist()}
    assert colours <= {tuple(c) for c in PART_COLOURS.tolist()} and len(colours) == len(PART_COLOURS)


def test_the_person_is_whole_and_large(clip):
    mask = clip["mask"] > 0
    assert not mask[:, [0, -1]].any() and not mask[:, :, [0, -1]].any()
    rows = np.flatnonzero(mask.any((0, 2)))
    assert rows[-1] - rows[0] > 70


def test_body_joints_lie_on_the_person(clip):
    near = [cv2.dilate(mask, np.ones((3, 3), np.uint8)) for mask in clip["mask"]]
    for mask, i in zip(near, clip["frame_index"]):
        x, y = np.floor(clip["kps"][i, :24]).astype(int).T
        assert mask[y, x].mean() > 0.95
        assert (clip["kps_conf"][i, 1:14] >= 0.6).all()


def test_limb_joints_lie_on_their_part(clip):
    """An elbow or knee that is in front lies between the colours of its two parts."""
    for joint, parts in ((3, ("upperarm_r", "lowerarm_r")), (9, ("thigh_r", "calf_r")), (12, ("thigh_l", "calf_l"))):
        x, y = np.floor(clip["kps"][0, joint]).astype(int)
        around = clip["semantic_map"][0, y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).tolist()
        assert any(tuple(c) in {tuple(PART_COLOURS[PARTS.index(p)]) for p in parts} for c in map(tuple, around))


def test_depth_map_is_the_metric_depth_with_near_bright(clip):
    near, far = clip["depth_range"][0]
    mask = clip["mask"] > 0
    metric = far - (clip["depth"][mask].astype(np.float32) - 1) / 254 * (far - near)
    np.testing.assert_allclose(metric, clip["metric_depth"][mask], atol=(far - near) / 254)
    assert 1 < near < far < 10


def test_normals_are_unit_and_face_the_camera(clip):
    mask = clip["mask"] > 0
    normal = clip["normal"][mask] / 127.5 - 1
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=0.02)
    assert (normal[:, 2] > -0.02).mean() > 0.999


def test_normals_agree_with_depth():
    """On a surface n.p = const, so depth changes by z/f * nx/nz from pixel to pixel (perspective aside)."""
    clip = scene(frames=[0], size=(256, 256))
    depth, normal = clip["metric_depth"][0], clip["normal"][0] / 127.5 - 1
    inner = (cv2.erode(clip["mask"][0], np.ones((5, 5), np.uint8)) > 0) & (normal[..., 2] > 0.5)
    predicted = depth / (clip["camera"][12] * 256) * normal[..., 0] / np.where(inner, normal[..., 2], 1)
    error = np.abs(np.gradient(depth, axis=1) - predicted)[inner]
    assert np.median(error) < 0.15 * np.median(np.abs(predicted[inner]))


def test_flow_carries_each_frame_to_the_next(clip):
    """Parts sampled where the flow points are the part one started on, except where something else is in front."""
    grid = np.stack(np.meshgrid(np.arange(96), np.arange(96)), -1)
    right = []
    for n in range(len(FRAMES) - 1):
        inside = clip["mask"][n] > 0
        target = np.rint(grid + clip["flow"][n])[inside].astype(int).clip(0, 95)
        before, after = clip["semantic_map"][n][inside], clip["semantic_map"][n + 1][target[:, 1], target[:, 0]]
        still = clip["semantic_map"][n + 1][inside]
        right.append(((before == after).all(-1).mean(), (before == still).all(-1).mean()))
    moved, unmoved = np.mean(right, 0)
    assert moved > 0.8 and moved > unmoved + 0.1
    assert np.abs(clip["flow"]).max() > 1 and np.abs(clip["flow"][-1]).max() < 1e-3


def test_flow_is_the_motion_of_the_vertices():
    """Exact at a vertex: its pixel moves by the difference of its two projections."""
    show = perform(sample_identity(4), load_motion("dance_b").slice(0, 18), CAMERA, SIZE)
    clip = scene(frames=[0, 2])
    first, second = show.vertices(0), show.vertices(2)
    start, end = show.view.project(first, SIZE), show.view.project(second, SIZE)
    x, y = np.floor(start).astype(int).clip(0, 95).T
    seen = (np.abs(clip["metric_depth"][0, y, x] - first[:, 2]) < 0.003) & (np.abs(start - np.floor(start) - 0.5).max(1) < 0.1)
    assert seen.sum() > 30
    np.testing.assert_allclose(clip["flow"][0, y, x][seen], (end - start)[seen], atol=0.35)


def test_projection_matches_the_stored_camera(clip):
    show = perform(sample_identity(4), load_motion("dance_b").slice(0, 18), CAMERA, SIZE)
    numbers = clip["camera"]
    rotation, eye, focal, centre = numbers[:9].reshape(3, 3), numbers[9:12], numbers[12], numbers[13:15]
    camera = (show.keypoints - eye) @ rotation.T
    pixels = camera[..., :2] / camera[..., 2:] * focal * SIZE[0] + centre * SIZE[0] + np.array(SIZE[::-1]) / 2
    np.testing.assert_allclose(pixels, clip["kps"], atol=0.01)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)


def test_the_same_again_and_another_person(clip):
    again, other = scene(), scene(identity=5)
    for name in ("frames", "flow", "kps"):
        np.testing.assert_array_equal(again[name], clip[name])
    both = (other["mask"] > 0) & (clip["mask"] > 0)
    assert np.abs(other["frames"][both].astype(int) - clip["frames"][both]).mean() > 20


def test_the_background_stands_still(clip):
    empty = ~cv2.dilate(clip["mask"].max(0), np.ones((5, 5), np.uint8)).astype(bool)
    assert (clip["frames"][:, empty] == clip["frames"][:1, empty]).all()


def test_a_face_seen_from_behind_is_not_there():
    behind, front = (scene(frames=[], camera=Camera(azimuth=a)) for a in (180, 0))
    assert (behind["kps_conf"][:, 24:92] < 0.3).all() and (behind["face_box"] == 0).all()
    assert (front["kps_conf"][:, 24:92] > 0.3).mean() > 0.5 and (front["face_box"][:, 2] > 0).any()


def test_an_unseen_frame_costs_no_pixels():
    clip = scene(frames=[])
    assert clip["frames"].shape == (0, *SIZE, 3) and clip["kps"].shape == (18, 134, 2)


def test_splits_share_nothing_they_should_not():
    train, test = (plan_split(split, 4, 2, 1.0) for split in ("train", "test"))
    assert len(train) == 8 and len({plan.clip_id for plan in train + test}) == 16
    for name in ("identity", "motion", "song_seed"):
        assert not {getattr(plan, name) for plan in train} & {getattr(plan, name) for plan in test}
    assert plan_split("train", 4, 2, 1.0) == train
    assert {plan.identity for plan in plan_split("test_motion", 4, 2, 1.0)} == {plan.identity for plan in test}
    with pytest.raises(UserError, match="expected one of"):
        plan_split("validation", 1, 1, 1.0)


def test_music_decides_the_dance():
    plans = [plan for plan in plan_split("motion", 20, 5, 1.0) + plan_split("train", 20, 5, 1.0) if plan.style]
    assert len({(plan.style, plan.motion) for plan in plans}) == len({plan.style for plan in plans}) >= 4
    silent = [plan for plan in plan_split("train", 20, 5, 1.0) if not plan.style]
    assert 5 < len(silent) < 50


def test_a_broken_run_goes_on_and_leaves_no_split_behind(tmp_path, monkeypatch):
    plans = [ClipPlan(f"clip_{i}", i, "walk", "house", 0, 0.0, 0.25, 24, 2, 32, 30.0, i, False, "rich192") for i in range(2)]
    rendered = []

    def render(plan):
        if plan.identity == 1 and len(rendered) == 1:
            rendered.append("stop")
            raise KeyboardInterrupt
        rendered.append(plan.identity)
        clip = scene(identity=plan.identity, frames=[0], size=(32, 32))
        return {
            "clip_id": plan.clip_id,
            "fps_num": 24,
            "fps_den": 1,
            "width": 32,
            "height": 32,
            "kps": clip["kps"],
            "kps_conf": clip["kps_conf"] * 255,
            "frame_index": [0],
            "frames": [cv2.imencode(".png", clip["frames"][0])[1].tobytes()],
        }

    monkeypatch.setattr(dancers, "render_record", render)
    with pytest.raises(KeyboardInterrupt):
        make_dataset(tmp_path, "train", plans, workers=1)
    assert not list(tmp_path.glob("*array_record*"))
    assert make_dataset(tmp_path, "train", plans, workers=1) == 2
    assert rendered == [0, "stop", 1]
    from champ_jax.data.records import open_records

    assert len(open_records(tmp_path, "train")) == 2 and not list(tmp_path.glob(".train*"))


def test_who_turns_shows_face_and_back():
    plan = plan_split("train", 1, 1, 1.0, stride=12, size=32, azimuth=0.0, face=False, turn=180.0)[0]
    record = dancers.render_record(plan)
    nose = record["kps_conf"][:, 0] / 255
    assert nose[0] > 0.6 and nose[-1] < 0.3 and record["frame_index"].tolist() == [0, 12]
    assert plan_split("train", 1, 1, 1.0)[0].turn == 0.0
