"""Photos: what is read, where a pixel goes, and where the pose comes from."""

import json

import numpy as np
import pytest
from PIL import Image

from champ_jax.errors import UserError
from champ_jax.infer import photo as photos
from champ_jax.pose.skeleton import BODY, FACE, FEET, J


@pytest.fixture
def picture(tmp_path):
    """A 60x40 picture (width, height) with a white dot at x=30, y=20."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[18:22, 28:32] = 255
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_missing_and_broken_images_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.png: there is no such image"):
        photos.load_image(tmp_path / "nowhere.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(UserError, match="broken.png: cannot read the image"):
        photos.load_image(tmp_path / "broken.png")
    with pytest.raises(UserError, match="uint8"):
        photos.load_image(np.zeros((4, 4, 3)))


def test_grey_transparent_and_turned_images_become_upright_rgb(tmp_path):
    Image.new("L", (6, 4), 7).save(tmp_path / "grey.png")
    assert photos.load_image(tmp_path / "grey.png").shape == (4, 6, 3)
    Image.new("RGBA", (6, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (photos.load_image(tmp_path / "clear.png") == 255).all()
    turned = Image.new("RGB", (6, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert photos.load_image(tmp_path / "turned.jpg").shape == (6, 4, 3)


def test_fit_cuts_the_middle_out_and_says_where_pixels_went(picture):
    image, scale, offset = photos.fit(photos.load_image(picture), (80, 80))
    assert image.shape == (80, 80, 3) and scale == 2
    np.testing.assert_allclose(scale * np.array([30, 20]) + offset, [40, 40])
    assert image[40, 40].min() > 200 and image[10, 10].max() == 0


def test_pose_file_beside_the_photo(picture):
    points = np.tile([30.0, 20.0, 0.9], (J, 1))
    pose = {"keypoints": points.tolist(), "size": [60, 40], "face": [0.6, 0.8]}
    picture.with_suffix(".json").write_text(json.dumps(pose))
    photo = photos.load_photo(picture, (80, 80))
    np.testing.assert_allclose(photo.keypoints, 40)
    np.testing.assert_allclose(photo.confidence, 0.9)
    np.testing.assert_allclose(photo.face, [0.6, 0.8])
    assert photo.pose_source.endswith("photo.json")


def test_pose_of_a_smaller_copy_is_scaled(picture, tmp_path):
    pose = {"keypoints": np.tile([15.0, 10.0, 1.0], (J, 1)).tolist(), "size": [30, 20]}
    (tmp_path / "pose.json").write_text(json.dumps(pose))
    np.testing.assert_allclose(photos.load_photo(picture, (80, 80), tmp_path / "pose.json").keypoints, 40)


def test_pose_as_arrays(picture):
    photo = photos.load_photo(photos.load_image(picture), (80, 80), (np.full((J, 2), 20.0), np.ones(J)))
    np.testing.assert_allclose(photo.keypoints, np.tile([40, 40], (J, 1)))


def test_the_whole_person_is_shown():
    """A full-length portrait on a square: the middle alone would have neither head nor feet."""
    picture = np.zeros((90, 50, 3), np.uint8)
    picture[4:8, 23:27] = 255
    keypoints = np.zeros((J, 2))
    keypoints[0], keypoints[10] = (25, 6), (25, 84)
    photo = photos.load_photo(picture, (64, 64), (keypoints, np.eye(J)[0] + np.eye(J)[10]))
    assert (photo.keypoints[[0, 10]] > 0).all() and (photo.keypoints[[0, 10]] < 64).all()
    x, y = photo.keypoints[0].astype(int)
    assert photo.image[y, x].min() > 150 and photo.image[-1].max() == 0


def test_sixteen_bits_keep_their_range(tmp_path):
    Image.fromarray(np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)).save(tmp_path / "depth.png")
    levels = photos.load_image(tmp_path / "depth.png")
    assert levels.shape == (4, 6, 3) and (np.diff(levels[..., 0].ravel().astype(int)) > 5).all() and levels.max() == 255


@pytest.mark.parametrize("text", ["{", "[]", '{"keypoints": [[1, 2, 3]]}', '{"points": []}'])
def test_wrong_pose_files_are_named(picture, text):
    picture.with_suffix(".json").write_text(text)
    with pytest.raises(UserError, match="photo.json.*expected"):
        photos.load_photo(picture, (80, 80))


@pytest.mark.parametrize("size", [(96, 96), (128, 64), (64, 128)])
def test_standing_body_is_inside_and_upright(size):
    keypoints, confidence = photos.standing_body(size)
    seen = confidence > 0
    assert seen[BODY].all() and seen[FEET].all() and not seen[FACE].any()
    assert (keypoints[seen] > 0).all() and (keypoints[seen] < size[::-1]).all()
    nose, right_wrist, left_wrist, right_ankle = keypoints[[0, 4, 7, 10]]
    assert nose[1] < right_wrist[1] < right_ankle[1]
    assert right_wrist[0] < nose[0] < left_wrist[0], "the person's right is the viewer's left"


def test_without_any_pose_the_photo_says_so(picture):
    assert photos.load_photo(picture, (80, 80)).pose_source == "standing"
