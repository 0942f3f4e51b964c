"""Folders as users have them, with the mistakes that users make: read, or refused with the file's name and the remedy."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from champ_jax.data.media import in_order
from champ_jax.data.prepare.aist import read_sequence, song_of, style_of
from champ_jax.data.prepare.layouts import find
from champ_jax.errors import UserError


def image(path: Path, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 6)).save(path)
    return path


def champ(folder: Path, clip: str = "part_1/clip_1", frames=range(12), kinds=("depth", "normal", "semantic_map", "mask", "dwpose")) -> Path:
    for number in frames:
        for kind in ("images", *kinds):
            image(folder / clip / kind / f"{number:04d}.png")
    return folder / clip


def p00002(folder: Path, subject: str = "P00002", frames=range(12)) -> Path:
    for number in frames:
        for name, mode in (("images", "RGB"), ("poses", "RGBA"), ("faces", "L")):
            image(folder / subject / name / f"frame_{number}.png", mode)
    return folder / subject


def test_numbers_in_names_count_as_numbers():
    assert sorted(["frame_10", "frame_9", "frame_100"], key=in_order) == ["frame_9", "frame_10", "frame_100"]


def test_champ_folders(tmp_path):
    champ(tmp_path)
    champ(tmp_path, "part_1/clip_2", range(5), kinds=("dwpose",))
    found = find(tmp_path)
    assert found.layout == "champ" and "part_1" in found.why and not found.refused
    assert [source.name for source in found.sources] == ["part_1_clip_1", "part_1_clip_2"]
    assert set(found.sources[0].maps) == {"depth", "normal", "semantic_map", "mask", "dwpose"} and set(found.sources[1].maps) == {"dwpose"}
    assert list(found.sources[0].frames) == list(range(12))


@pytest.mark.parametrize("clip", ["clip_1", "part/sub/clip_1", "."])
def test_a_level_more_or_less_is_no_matter(tmp_path, clip):
    champ(tmp_path, clip, range(3))
    found = find(tmp_path)
    assert found.layout == "champ" and len(found.sources) == 1 and len(found.sources[0].frames) == 3


def test_champ_images_of_another_name(tmp_path):
    clip = champ(tmp_path)
    (clip / "images").rename(clip / "images_768")
    assert len(find(tmp_path).sources[0].frames) == 12


def damage_missing_images(clip):
    for path in (clip / "images").iterdir():
        path.unlink()
    (clip / "images").rmdir()
    return "images/ is missing"


def damage_unequal(clip):
    (clip / "depth" / "0007.png").unlink()
    return "0007.png"


def damage_extra(clip):
    image(clip / "normal" / "0099.png")
    return "0099.png"


def damage_doubled(clip):
    image(clip / "images" / "0003.jpg")
    return "0003.jpg"


def damage_unnumbered(clip):
    image(clip / "images" / "cover.png")
    return "cover.png"


def damage_two_image_folders(clip):
    image(clip / "images_2" / "0000.png")
    return "images_2"


@pytest.mark.parametrize(
    "damage", [damage_missing_images, damage_unequal, damage_extra, damage_doubled, damage_unnumbered, damage_two_image_folders]
)
def test_mistakes_are_named_and_the_other_clips_are_used(tmp_path, damage):
    champ(tmp_path, "part/good", range(3))
    told = damage(champ(tmp_path, "part/bad"))
    found = find(tmp_path)
    assert [source.name for source in found.sources] == ["part_good"]
    assert told in found.refused["part_bad"]


def test_a_folder_of_mistakes_alone_is_refused(tmp_path):
    told = damage_missing_images(champ(tmp_path))
    with pytest.raises(UserError, match=told):
        find(tmp_path)


def test_p00002(tmp_path):
    subject = p00002(tmp_path, frames=[*range(5), *range(8, 12)])  # the same gap in all
    for number in range(12):
        path = subject / "music_features" / f"frame_{number}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.zeros(35))
    found = find(tmp_path)
    source = found.sources[0]
    assert found.layout == "p00002" and source.subject == "P00002" and set(source.maps) == {"dwpose"}
    assert list(source.frames) == [0, 1, 2, 3, 4, 8, 9, 10, 11] and source.frames[10].name == "frame_10.png"
    assert len(source.features) == 12
    (subject / "music_features" / "frame_9.npy").unlink()
    with pytest.raises(UserError, match="frame_9.npy"):
        find(tmp_path)


def test_p00002_given_itself(tmp_path):
    assert find(p00002(tmp_path)).sources[0].name == "P00002"


def test_tiktok_and_bare_frames(tmp_path):
    for number in range(1, 5):
        image(tmp_path / "00001" / "images" / f"{number:04d}.png")
        image(tmp_path / "00001" / "masks" / f"{number:04d}.png")
        image(tmp_path / "00002" / f"{number:04d}.png")
    found = find(tmp_path)
    assert found.layout == "tiktok" and [len(source.frames) for source in found.sources] == [4, 4]


def test_videos_with_what_belongs_to_them(tmp_path):
    for name in ("a 1.mp4", "sub/b.MOV", "sub/b.npz", "sub/b.wav", "notes.txt", ".hidden.mp4"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "sub" / "license.txt").write_text("CC0\n\nmore")
    found = find(tmp_path)
    assert found.layout == "videos" and [source.name for source in found.sources] == ["a_1", "sub_b"]
    video = found.sources[1]
    assert video.keypoints.name == "b.npz" and video.music.name == "b.wav" and video.license == "CC0" and video.subject == "sub"


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"x")
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "in.mp4").write_bytes(b"x")
    (folder / "out.mp4").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path)
    found = find(folder)
    assert [source.name for source in found.sources] == ["in"] and set(found.refused) == {"out.mp4", "up"}


def test_links_out_of_a_clip_are_not_followed(tmp_path):
    secret = image(tmp_path / "secret.png")
    (tmp_path / "secret.txt").write_text("secret")
    np.savez(tmp_path / "secret.npz", a=1)
    clip = champ(tmp_path / "in", "part/a", range(3))
    (clip / "images" / "0003.png").symlink_to(secret)
    other = champ(tmp_path / "in", "part/b", range(3))
    (other / "license.txt").symlink_to(tmp_path / "secret.txt")
    (other / "keypoints.npz").symlink_to(tmp_path / "secret.npz")
    np.save(tmp_path / "secret.npy", np.zeros((3, 4)))
    (other / "music_features.npy").symlink_to(tmp_path / "secret.npy")
    found = find(tmp_path / "in")
    (source,) = found.sources
    assert "0003.png" in found.refused["part_a"] and source.license == "" and source.keypoints is None
    assert source.features is None


def test_names_that_fall_together_are_told(tmp_path):
    for name in ("a.mp4", "a.mov"):
        (tmp_path / name).write_bytes(b"x")
    found = find(tmp_path)
    assert len(found.sources) == 1 and "a.mov" in " ".join((*found.refused, *found.refused.values()))


def test_nothing_to_read(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        find(tmp_path / "absent")
    with pytest.raises(UserError, match="layouts that can be read"):
        find(tmp_path)
    with pytest.raises(UserError, match="expected auto or one of"):
        find(tmp_path, "tiktak")


def aist(folder: Path, name: str, points: np.ndarray) -> Path:
    path = folder / "keypoints2d" / f"{name}.pkl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(
        pickle.dumps({"keypoints2d": points, "det_scores": np.ones(points.shape[:2]), "timestamps": np.arange(points.shape[1])})
    )
    return path


def test_aist(tmp_path):
    points = np.random.default_rng(0).uniform(1, 1000, (9, 20, 17, 3))
    points[..., 2] = 0.9
    points[0, 3, 5] = np.nan  # left shoulder
    name, other = "gBR_sBM_cAll_d04_mBR0_ch01", "gWA_sBM_cAll_d25_mWA1_ch02"
    path = aist(tmp_path, name, points)
    aist(tmp_path, other, points)
    (tmp_path / "ignore_list.txt").write_text(f"{other}\n")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "pose_test.txt").write_text(f"{name}\n")
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "mBR0.wav").write_bytes(b"")
    found = find(tmp_path)
    assert found.layout == "aist" and list(found.refused) == [other]
    (source,) = found.sources
    assert source.part == "test" and source.subject == "d04" and source.music.name == "mBR0.wav"
    assert style_of(name) == 0 and style_of(other) == 9 and song_of(name) == "mBR0"
    keypoints, confidence = read_sequence(path)
    assert keypoints.shape == (20, 134, 2) and (confidence[:, 18:] == 0).all()
    np.testing.assert_allclose(keypoints[0, 10], points[0, 0, 16, :2], rtol=1e-6)  # right ankle
    np.testing.assert_allclose(keypoints[0, 1], points[0, 0, 5:7, :2].mean(0), rtol=1e-6)
    assert confidence[3, 5] == 0 and confidence[3, 1] == 0 and (keypoints[3, 1] == 0).all() and confidence[2, 1] > 0


def test_a_pickle_that_would_do_something_is_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return Path.touch, (marker,)

    path = tmp_path / "keypoints2d" / "gBR_sBM_cAll_d04_mBR0_ch01.pkl"
    path.parent.mkdir()
    path.write_bytes(pickle.dumps({"keypoints2d": Payload()}))
    with pytest.raises(UserError, match="no annotation"):
        read_sequence(path)
    assert not marker.exists()
