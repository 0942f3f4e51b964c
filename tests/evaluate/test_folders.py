"""What belongs together in folders, and what is said of folders in which it does not."""

import json

import numpy as np
import pytest
from PIL import Image

from champ_jax.errors import UserError
from champ_jax.evaluate.folders import Folders, find_clips, read_beats
from tests.evaluate.films import film, save_folders, swaying


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return save_folders(tmp_path_factory.mktemp("films"), count=2)


def found(folders, **more):
    names = {"generated": "generated", "reference": "reference", "photos": "photos", "motion": "motion", "music": "music"}
    return find_clips(Folders(**{name: folders[key] for name, key in names.items()}, reference_motion=folders["true_motion"], **more))


def test_clips_are_read_whole(folders):
    clips = found(folders)
    assert list(clips) == ["clip_0", "clip_1"]
    clip = clips["clip_1"]()
    assert clip.fps == 12 and clip.photo.shape == (64, 64, 3) and len(clip.beats) == 7
    frames = np.stack(list(clip.reference()))
    assert frames.shape == (20, 64, 64, 3) and np.abs(frames.astype(int) - film(1)).mean() < 6
    assert clip.motion.fps == 24 and clip.motion.size == (64, 64)
    np.testing.assert_allclose(clip.reference_motion.keypoints, swaying(reach=0.22).keypoints, atol=1e-3)


def test_frames_are_scaled_and_folders_of_images_are_videos(folders, tmp_path):
    for number, frame in enumerate(film(0, 12)):
        (tmp_path / "clip_0").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "clip_0" / f"frame_{number}.png")
    with pytest.raises(UserError, match="give --fps"):
        find_clips(Folders(generated=tmp_path))["clip_0"]()
    clip = find_clips(Folders(generated=tmp_path, reference=folders["reference"], size=(32, 48), fps=12))["clip_0"]()
    assert [next(stream()).shape for stream in (clip.generated, clip.reference)] == [(32, 48, 3)] * 2
    # frame_10 comes after frame_9
    plain = find_clips(Folders(generated=tmp_path, fps=12))["clip_0"]()
    np.testing.assert_array_equal(np.stack(list(plain.generated())), film(0, 12))


def test_a_video_without_frames_is_named(folders, monkeypatch):
    monkeypatch.setattr("champ_jax.evaluate.folders.read_frames", lambda *_: iter(()))
    with pytest.raises(UserError, match="clip_0.mp4: it has no frames; remove it"):
        find_clips(Folders(generated=folders["generated"]))["clip_0"]()


def test_one_photo_and_one_song_serve_all(folders, tmp_path):
    photo = folders["photos"] / "clip_0.png"
    clips = find_clips(Folders(generated=folders["generated"], photos=photo, music=folders["music"] / "clip_0.json"))
    assert [clips[name]().photo.shape for name in clips] == [(64, 64, 3)] * 2


def test_what_has_no_partner_is_listed(folders, tmp_path):
    with pytest.raises(UserError, match="no reference for 2 of the 2 clips in .*: clip_0, clip_1"):
        (tmp_path / "other").mkdir()
        Image.fromarray(film()[0]).save(tmp_path / "x.png")
        (tmp_path / "other" / "a.png").write_bytes((tmp_path / "x.png").read_bytes())
        find_clips(Folders(generated=folders["generated"], reference=tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        find_clips(Folders(generated=tmp_path / "none"))
    with pytest.raises(UserError, match="nothing to evaluate"):
        find_clips(Folders())
    with pytest.raises(UserError, match="--fps is -5: give frames a second"):
        find_clips(Folders(generated=folders["generated"], fps=-5))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="no videos or folders of frames in it"):
        find_clips(Folders(generated=empty))


def test_what_lies_beside_a_video_is_none(folders, tmp_path):
    for name in ("dance.mp4", "dance.skeleton.mp4"):
        (tmp_path / name).write_bytes((folders["generated"] / "clip_0.mp4").read_bytes())
    (tmp_path / "dance.motion.npz").write_bytes((folders["motion"] / "clip_0.motion.npz").read_bytes())
    assert list(find_clips(Folders(generated=tmp_path))) == ["dance"]
    assert list(find_clips(Folders(motion=tmp_path))) == ["dance"]
    (tmp_path / "dance.mov").write_bytes(b"")
    with pytest.raises(UserError, match="are the same clip"):
        find_clips(Folders(generated=tmp_path))


def test_motion_in_three_dimensions_and_broken_motion(tmp_path):
    np.savez(tmp_path / "a.npz", positions=np.zeros((5, 24, 3)), fps=30)
    motion = find_clips(Folders(motion=tmp_path))["a"]().motion
    assert motion.positions.shape == (5, 24, 3) and motion.fps == 30
    for name, arrays, message in (
        ("b", {"positions": np.zeros((5, 22, 3))}, r"expected \[T,24,3\]"),
        ("c", {"positions": np.zeros((5, 24, 3))}, "does not say how many frames a second it has; give --fps, or put fps into"),
        ("d", {"keypoints": np.zeros((5, 134, 2)), "confidence": np.zeros((5, 134))}, "put its size"),
        ("e", {"keypoints": np.zeros((2, 134, 2)), "confidence": np.zeros((2, 134)), "size": (8, 8), "fps": 30}, "at least 4"),
        ("f", {"what": np.zeros(3), "size": (8, 8)}, "cannot read poses"),
        ("h", {"positions": np.full((5, 24, 3), np.nan), "fps": 30}, "finite"),
        ("i", {"positions": np.zeros((5, 24, 3)), "fps": 0}, "its fps is 0; put .* take fps out and give --fps"),
        ("k", {"positions": np.zeros((5, 24, 3)), "fps": -30}, "its fps is -30; "),
        ("l", {"positions": np.zeros((5, 24, 3)), "fps": np.nan}, "its fps is nan; "),
        ("j", {"positions": np.zeros((5, 24, 3)), "fps": [30, 30]}, "cannot be read"),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(UserError, match=message):
            find_clips(Folders(motion=tmp_path))[name]()
    (tmp_path / "g.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        find_clips(Folders(motion=tmp_path))["g"]()


def test_poses_of_openpose_take_size_and_rate_from_the_video(folders, tmp_path):
    for number in range(4):
        (tmp_path / "clip_0").mkdir(exist_ok=True)
        (tmp_path / "clip_0" / f"{number}.json").write_text('{"people": []}')
    with pytest.raises(UserError, match="of unknown size; give its videos with --generated"):
        find_clips(Folders(motion=tmp_path, fps=24))["clip_0"]()
    given = {"generated": folders["generated"] / "clip_0.mp4", "motion": tmp_path}
    assert find_clips(Folders(**given))["clip_0"]().motion.fps == 12
    assert find_clips(Folders(**given, fps=24))["clip_0"]().motion.fps == 24


def test_beats(tmp_path):
    path = tmp_path / "song.json"
    for text, message in (('{"beats": []}', "no beats"), ("{", "no beats"), ('{"beats_s": [1]}', "1 beats; at least 2")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_beats(path)
    path.write_text(json.dumps({"beats_s": [2, 1]}))
    assert read_beats(path).tolist() == [1, 2]
