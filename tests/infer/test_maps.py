"""Guidance folders: any subset of kinds, and one clear line for each way to get them wrong."""

import numpy as np
import pytest
from PIL import Image

from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.errors import UserError
from champ_jax.infer.maps import open_guidance
from champ_jax.infer.photo import standing_body

SIZE = (32, 32)


def write(folder, name, count=3, value=200, size=SIZE):
    (folder / name).mkdir(parents=True)
    for i in range(count):
        pixels = np.full((*size, 3), value, np.uint8)
        pixels[:, : size[1] // 2] = 0 if name == "mask" else value
        Image.fromarray(pixels).save(folder / name / f"{i:04d}.png")


def test_all_kinds_in_order_and_the_semantic_map_is_masked(tmp_path):
    for kind in (*GUIDANCE_KINDS, "mask"):
        write(tmp_path, kind)
    maps = open_guidance(tmp_path, GUIDANCE_KINDS, SIZE)
    assert tuple(maps) == GUIDANCE_KINDS
    assert all(m.shape == (3, *SIZE, 3) and m.dtype == np.uint8 for m in maps.values())
    maps = {kind: each[:] for kind, each in maps.items()}
    assert (maps["semantic_map"][:, :, :16] == 0).all() and (maps["semantic_map"][:, :, 16:] == 200).all()
    assert (maps["depth"] == 200).all()


def test_a_subset_that_the_checkpoint_knows(tmp_path):
    write(tmp_path, "depth")
    write(tmp_path, "normal")
    assert tuple(open_guidance(tmp_path, ("normal", "dwpose"), SIZE)) == ("normal",)


def test_maps_of_another_size_are_fitted(tmp_path):
    write(tmp_path, "depth", size=(64, 96))
    assert open_guidance(tmp_path, ("depth",), SIZE)["depth"].shape == (3, *SIZE, 3)


def test_keypoints_are_drawn(tmp_path):
    keypoints, confidence = standing_body((64, 64))
    values = dict(keypoints=keypoints[None].repeat(4, 0), confidence=confidence[None].repeat(4, 0), size=(64, 64))
    np.savez(tmp_path / "keypoints.npz", **values)
    maps = open_guidance(tmp_path, ("dwpose",), SIZE)
    assert maps["dwpose"].shape == (4, *SIZE, 3) and maps["dwpose"][np.array([3, 0])].max() > 100


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: None, "guided by depth, semantic_map; the folder holds nothing"),
        (lambda f: write(f, "normal"), "the folder holds normal"),
        (lambda f: (f / "depth").mkdir(), "depth: there are no frames"),
        (lambda f: (write(f, "depth"), write(f, "semantic_map")), "needs mask/"),
        (lambda f: (write(f, "depth", 2), write(f, "semantic_map"), write(f, "mask")), "depth/ has 2 .* 0002 is missing"),
        (lambda f: (write(f, "depth"), (f / "depth/0001.png").write_text("x")), "0001.png: cannot read"),
        (lambda f: (write(f, "depth"), (f / "depth/0001.jpg").write_text("x")), "0001.(jpg|png) and 0001.(jpg|png) are the same frame"),
    ],
)
def test_wrong_folders_get_one_line(tmp_path, break_it, message):
    break_it(tmp_path)
    with pytest.raises(UserError, match=message):
        open_guidance(tmp_path, ("depth", "semantic_map"), SIZE)


def test_numbers_in_names_are_numbers(tmp_path):
    for i in range(11):
        write(tmp_path / str(i), "depth", 1, value=i)
        (tmp_path / "depth").mkdir(exist_ok=True)
        (tmp_path / str(i) / "depth/0000.png").rename(tmp_path / f"depth/frame_{i}.png")
    assert open_guidance(tmp_path, ("depth",), SIZE)["depth"][:][:, 0, 0, 0].tolist() == list(range(11))


def test_missing_folder_and_wrong_keypoints(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        open_guidance(tmp_path / "nowhere", GUIDANCE_KINDS, SIZE)
    np.savez(tmp_path / "keypoints.npz", keypoints=np.zeros((4, 18, 2)), confidence=np.zeros((4, 18)), size=(64, 64))
    with pytest.raises(UserError, match=r"keypoints.npz: .*expected \[F,134,2\]"):
        open_guidance(tmp_path, ("dwpose",), SIZE)
    for frame in (64, (0, 64)):
        np.savez(tmp_path / "keypoints.npz", keypoints=np.zeros((4, 134, 2)), confidence=np.zeros((4, 134)), size=frame)
        with pytest.raises(UserError, match="size is"):
            open_guidance(tmp_path, ("dwpose",), SIZE)
