"""Poses that a user has already: keypoints.npz, or one JSON file a frame as OpenPose and DWPose write
them; and skeletons that are only drawn."""

import json
import re
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np

from champ_jax.errors import UserError
from champ_jax.files import atomic_file
from champ_jax.pose.skeleton import COLOURS, FACE, LEFT_HAND, RIGHT_HAND, J

DRAWN_CONFIDENCE = 0.5
"""Of a joint whose place is read off a drawing."""
NAMES = {"keypoints": ("keypoints", "kps"), "confidence": ("confidence", "conf")}


def read_keypoints(path: Path, size: tuple[int, int], own: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray, Fraction | None]:
    """(keypoints f32 [T,134,2] in pixels of a frame of `size` (H, W), confidence f32 [T,134], frames a second if the file says so).

    Args:
      path: an .npz file with keypoints (or kps) [T,134,2], confidence (or conf) [T,134], and at will size (height, width) or W and H
        of the frame that the pixels refer to, and fps; or a folder of JSON files, one a frame.
      own: (H, W) of the frames that the poses were found in, which their pixels refer to if the file does not say it; `size` if None.

    Raises:
      UserError: it is neither; says what was expected.
    """
    own = own or size
    if path.is_dir():
        keypoints, confidence = _read_folder(path)
        return _finite(keypoints * (np.array(size[::-1]) / own[::-1])), confidence, None
    try:
        with np.load(path, allow_pickle=False) as held:
            keypoints, confidence = (np.asarray(held[next(n for n in names if n in held)], np.float32) for names in NAMES.values())
            frame = held["size"] if "size" in held else (held["H"], held["W"]) if "W" in held else own
            frame = np.asarray(frame, np.float64).reshape(2)
            fps = Fraction(float(held["fps"])).limit_denominator(1001) if "fps" in held else None
    except (OSError, ValueError, TypeError, KeyError, EOFError, StopIteration, RuntimeError, OverflowError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot read poses ({error!r}); expected arrays keypoints [T,{J},2] and confidence [T,{J}]") from error
    if keypoints.ndim != 3 or keypoints.shape[1:] != (J, 2) or confidence.shape != keypoints.shape[:2] or not len(keypoints):
        raise UserError(f"{path}: keypoints {list(keypoints.shape)}, confidence {list(confidence.shape)}; expected [T,{J},2] and [T,{J}]")
    if not (frame > 0).all() or (fps is not None and not 0 < fps <= 1000):
        raise UserError(f"{path}: size {frame.tolist()}, fps {fps}: expected (height, width) in pixels and frames a second")
    return _finite(keypoints * (np.array(size[::-1]) / frame[::-1])), _finite(confidence).clip(0, 1), fps


def write_keypoints(path: Path, keypoints: np.ndarray, confidence: np.ndarray, size: tuple[int, int], fps: float) -> None:
    """Writes keypoints f32 [T,134,2] in pixels of a frame of `size` (H, W), confidence f32 [T,134], at `fps`, as they are read here."""
    with atomic_file(path) as file:
        np.savez_compressed(file, keypoints=keypoints, confidence=confidence, size=np.asarray(size), fps=fps)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _read_folder(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    files = sorted(folder.glob("*.json"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.stem)] or [0])
    if not files:
        raise UserError(f"{folder}: no poses in it; expected a JSON file for each frame")
    poses = [_read_frame(path) for path in files]
    return np.stack([pose[0] for pose in poses]), np.stack([pose[1] for pose in poses])


def _read_frame(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """One frame of OpenPose's output: {"people": [{"pose_keypoints_2d": [x, y, c] * 18 or 25, "face_...", "hand_left_...", ...}]}."""
    keypoints, confidence = np.zeros((J, 2), np.float32), np.zeros(J, np.float32)
    parts = {"pose": slice(0, 18), "face": FACE, "hand_left": LEFT_HAND, "hand_right": RIGHT_HAND}
    try:
        people = json.loads(path.read_text())["people"]
        for name, where in parts.items() if people else ():
            values = np.asarray(people[0].get(f"{name}_keypoints_2d", ()), np.float32).reshape(-1, 3)
            if name == "pose" and len(values) == 25:
                # BODY_25: a hip in the middle comes between the wrists and the right hip, and the feet after the ears.
                feet = values[19:25]
                keypoints[18:24], confidence[18:24] = feet[:, :2], feet[:, 2]
                values = values[[*range(8), *range(9, 19)]]
            count = min(len(values), where.stop - where.start)
            keypoints[where.start : where.start + count], confidence[where.start : where.start + count] = (
                values[:count, :2],
                values[:count, 2],
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f'{path}: no pose of OpenPose ({error!r}); expected {{"people": [{{"pose_keypoints_2d": [x, y, confidence, ...]}}]}}'
        ) from error
    return _finite(keypoints), _finite(confidence).clip(0, 1)


def resample_pose(keypoints: np.ndarray, confidence: np.ndarray, rate: Fraction, fps: Fraction, first: int, count: int):
    """(keypoints [count,134,2], confidence [count,134]) at `fps` from frame `first`, of a track at `rate`.

    Between two frames a joint is where a straight line puts it, as sure as the less sure of the two; beyond the end it is unseen.
    """
    places = np.array([float((first + number) * rate / fps) for number in range(count)])
    low = np.minimum(places.astype(int), len(keypoints) - 1)
    share = np.where(np.abs(places - np.rint(places)) < 1e-6, 0.0, places - low)
    low = np.where(share == 0, np.rint(places).astype(int), low)
    inside = low < len(keypoints)
    low = low.clip(0, len(keypoints) - 1)
    high = np.where(share > 0, np.minimum(low + 1, len(keypoints) - 1), low)
    blended = keypoints[low] * (1 - share)[:, None, None] + keypoints[high] * share[:, None, None]
    sure = np.minimum(confidence[low], confidence[high]) * inside[:, None]
    return (blended * (sure > 0)[..., None]).astype(np.float32), sure.astype(np.float32)


def read_drawing(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(keypoints f32 [134,2], confidence f32 [134]) of the 18 body joints that a skeleton of DWPose's colours, u8 [H,W,3], shows.

    Each joint is a disc of its own colour; limbs are darker. What is drawn is all there is to see: hands and face are left out, and the
    confidence is `DRAWN_CONFIDENCE`. A lossy way, for folders of which nothing else is left.
    """
    keypoints, confidence = np.zeros((J, 2), np.float32), np.zeros(J, np.float32)
    values = image.astype(np.int16)
    for joint, colour in enumerate(COLOURS):
        rows, columns = np.nonzero(np.abs(values - colour.astype(np.int16)).max(-1) <= 24)
        if len(rows) >= 5:
            keypoints[joint] = np.median(columns) + 0.5, np.median(rows) + 0.5
            confidence[joint] = DRAWN_CONFIDENCE
    return keypoints, confidence
