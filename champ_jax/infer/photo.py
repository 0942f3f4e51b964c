"""The photo: read, turned upright, fitted to the model's size, and the pose of the person in it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from champ_jax.data import transforms
from champ_jax.data.estimate.faces import FaceModel, embed_faces, face_boxes
from champ_jax.data.media import read_image, to_rgb
from champ_jax.errors import UserError
from champ_jax.pose.skeleton import BODY, FEET, MIRROR, THRESHOLD, J

MAX_PHOTOS = 8
MARGIN = 0.1  # of a person's height or width, between keypoints and the edge of what belongs to the person

# A person standing upright with arms hanging, in body heights from (0, crown): body points on the middle line and of the
# right side, the viewer's left; the left side is its mirror image. Face and hands are left out.
_STANDING = {
    0: (0.0, 0.10), 1: (0.0, 0.19), 2: (-0.11, 0.20), 3: (-0.14, 0.34), 4: (-0.15, 0.47), 8: (-0.06, 0.50),
    9: (-0.065, 0.72), 10: (-0.07, 0.93), 14: (-0.015, 0.085), 16: (-0.035, 0.095),
    21: (-0.085, 0.98), 22: (-0.105, 0.975), 23: (-0.065, 0.955),
}  # fmt: skip


@dataclass(frozen=True)
class Photo:
    """A photo at the model's size and the pose of the person in it.

    image: u8 [H,W,3] RGB. keypoints: f32 [J,2] pixels of `image`. confidence: f32 [J] in [0,1]; 0 for what is unknown.
    face: f32 [E] embedding of the face, unit norm, or None. pose_source: where the pose comes from, for messages.
    """

    image: np.ndarray
    keypoints: np.ndarray
    confidence: np.ndarray
    face: np.ndarray | None
    pose_source: str


def load_image(image: str | os.PathLike | Image.Image | np.ndarray) -> np.ndarray:
    """u8 [H,W,3] RGB of a file, a PIL image or an array u8 [H,W,3]; upright by its EXIF tag, transparency on white.

    Raises UserError for a missing or broken file and for arrays of another shape or type.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise UserError(f"the image is {image.dtype}{list(image.shape)}: give uint8 [height, width, 3] RGB")
        return image
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if not Path(image).is_file():
        raise UserError(f"{image}: there is no such image file")
    return read_image(image)


def fit(
    image: np.ndarray, size: tuple[int, int], resample: Image.Resampling = Image.Resampling.LANCZOS
) -> tuple[np.ndarray, float, np.ndarray]:
    """Scales u8 [H,W,3] to cover `size` (height, width) and cuts its middle out; nothing is distorted.

    Returns the image u8 [*size,3], and scale and offset [2] that map a pixel position p=(x,y) to scale * p + offset.
    """
    height, width = image.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    offset = (np.array([size[1], size[0]]) - scale * np.array([width, height])) / 2
    left, top = np.maximum(-offset / scale, 0.0)  # rounding may leave the image by a hair, which PIL refuses
    box = (left, top, min(left + size[1] / scale, width), min(top + size[0] / scale, height))
    fitted = Image.fromarray(image).resize((size[1], size[0]), resample, box=box)
    return np.asarray(fitted), scale, offset


def load_photo(
    image: str | os.PathLike | Image.Image | np.ndarray,
    size: tuple[int, int],
    pose: str | os.PathLike | tuple[np.ndarray, np.ndarray] | None = None,
    faces: FaceModel | None = None,
) -> Photo:
    """The photo fitted to `size` (height, width), with the person's pose in its pixels. With a pose the whole person is
    shown, as in training; without one the middle is cut out.

    pose: a JSON file, or (keypoints [J,2], confidence [J]) in pixels of the photo as given. Without it the JSON file of
    the photo's name beside the photo counts, and else a body that stands upright in the middle.
    The JSON file holds {"keypoints": [[x, y, confidence], ... 134 of them], "size": [width, height]} with the size of
    the picture that the pixels refer to, and optionally "face", the face's embedding. faces: makes one where the file has none.
    Raises UserError for an unreadable photo or pose.
    """
    picture = load_image(image)
    height, width = picture.shape[:2]
    if pose is None and isinstance(image, (str, os.PathLike)) and Path(image).with_suffix(".json").is_file():
        pose = Path(image).with_suffix(".json")
    if pose is None:
        keypoints, confidence = standing_body(size)
        return Photo(fit(picture, size)[0], keypoints, confidence, None, "standing")
    if isinstance(pose, tuple):
        (keypoints, confidence), face, source = pose, None, "given"
    else:
        keypoints, confidence, face = read_pose(pose, (width, height))
        source = str(pose)
    keypoints, confidence = np.asarray(keypoints, np.float32), np.asarray(confidence, np.float32)
    if face is None and faces is not None:
        vectors, valid = embed_faces(faces, lambda _: picture, face_boxes(keypoints[None], confidence[None], (height, width)))
        face = vectors[0].astype(np.float32) if valid[0] else None
    view = transforms.fit((height, width), size, _person_box(keypoints, confidence, (height, width)))
    keypoints, confidence = view.points(keypoints, confidence)
    return Photo(view.photo(picture), keypoints, confidence, face, source)


def load_photos(images: Any, size: tuple[int, int], poses: Any = None, faces: FaceModel | None = None) -> list[Photo]:
    """One photo or a list of up to MAX_PHOTOS, each as by `load_photo`; poses: one of its kind, or a list of as many.

    Raises UserError as it does, and for numbers that do not fit.
    """
    images = list(images) if isinstance(images, (list, tuple)) else [images]
    poses = [None] * len(images) if poses is None else poses if isinstance(poses, list) else [poses]
    if not 1 <= len(images) <= MAX_PHOTOS or len(poses) != len(images):
        raise UserError(f"{len(images)} photos and {len(poses)} poses: give 1 to {MAX_PHOTOS} photos, and a pose for each or none")
    return [load_photo(image, size, pose, faces) for image, pose in zip(images, poses)]


def _person_box(keypoints: np.ndarray, confidence: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """xyxy [4] around the visible keypoints [J,2], with room for hair and shoes, inside a photo of `size` (height, width)."""
    seen = keypoints[confidence >= THRESHOLD]
    if not len(seen):
        return np.array([0, 0, size[1], size[0]], np.float32)
    low, high = seen.min(0), seen.max(0)
    room = MARGIN * (high - low).max()
    limit = np.array(size[::-1], np.float32)
    return np.concatenate([np.clip(low - room, 0, limit), np.clip(high + room, 0, limit)])


def read_pose(path: str | os.PathLike, photo_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(keypoints f32 [J,2], confidence f32 [J], face f32 [E] or None) of a pose file, in pixels of a photo of
    `photo_size` (width, height). See `load_photo` for the format; UserError when the file does not have it."""
    try:
        values = json.loads(Path(path).read_text())
        points = np.asarray(values["keypoints"], np.float32)
        width, height = values.get("size", photo_size)
        width, height = float(width), float(height)
        face = None if values.get("face") is None else np.asarray(values["face"], np.float32)
        if not (width > 0 and height > 0):
            raise ValueError(f"size {width:g}x{height:g}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{path}: cannot read the pose ({error!r}); expected JSON {{"keypoints": [[x, y, confidence] * {J}], "size": [width, height]}}'
        ) from error
    if points.shape != (J, 3) or not np.isfinite(points).all():
        raise UserError(f"{path}: keypoints are {list(points.shape)}; expected {J} finite [x, y, confidence] triples")
    keypoints = points[:, :2] * np.array([photo_size[0] / width, photo_size[1] / height], np.float32)
    return keypoints, points[:, 2].clip(0, 1), face


def standing_body(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(keypoints f32 [J,2], confidence f32 [J]) of a body that stands upright in the middle of `size` (height, width)."""
    keypoints, confidence = np.zeros((J, 2), np.float32), np.zeros(J, np.float32)
    for joint, (x, y) in _STANDING.items():
        keypoints[joint], keypoints[MIRROR[joint]] = (x, y), (-x, y)
    confidence[BODY] = confidence[FEET] = 1
    tall = 0.8 * min(size[0], 2 * size[1])
    return keypoints * tall + np.array([size[1] / 2, (size[0] - tall) / 2], np.float32), confidence
