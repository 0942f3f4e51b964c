"""Pose estimators behind one call: an image to the people in it, as the 134 keypoints of pose/skeleton.py.

"mediapipe" runs MediaPipe holistic, whose weights are in its wheel, in an environment of its own (launch/pose_env.sh makes it); a folder
with a whole-body model and a person detector as ONNX files is DWPose's or RTMPose's way (pose_onnx.py).
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from champ_jax.errors import UserError
from champ_jax.pose.skeleton import J

MEDIAPIPE = "mediapipe"


class EstimatorLost(UserError):
    """The estimator itself ended: no fault of the image, and no reason to leave it out."""


class People(NamedTuple):
    """Who is in an image: keypoints f32 [P,134,2] pixels, confidence f32 [P,134] in 0..1, boxes f32 [P,4] xyxy pixels; P may be 0."""

    keypoints: np.ndarray
    confidence: np.ndarray
    boxes: np.ndarray

    @classmethod
    def nobody(cls) -> "People":
        """An image without anybody."""
        return cls(np.zeros((0, J, 2), np.float32), np.zeros((0, J), np.float32), np.zeros((0, 4), np.float32))


class Estimator(NamedTuple):
    """estimate: an image u8 [H,W,3] to People. begin: to be called where another video begins, so that nobody is followed into it."""

    estimate: Callable[[np.ndarray], People]
    begin: Callable[[], None] = lambda: None


def boxes_of(keypoints: np.ndarray, confidence: np.ndarray, threshold: float) -> np.ndarray:
    """f32 [...,4] xyxy around the points [...,J,2] whose confidence [...,J] reaches the threshold; zeros where none does."""
    seen = (confidence >= threshold)[..., None]
    low = np.where(seen, keypoints, np.inf).min(-2)
    high = np.where(seen, keypoints, -np.inf).max(-2)
    boxes = np.concatenate([low, high], -1)
    return np.where(np.isfinite(boxes).all(-1, keepdims=True), boxes, 0).astype(np.float32)


@contextlib.contextmanager
def open_estimator(name: str | os.PathLike) -> Iterator[Estimator]:
    """A pose estimator by name, or by the folder of its ONNX files.

    Raises:
      UserError: it cannot be opened; says what to install or which file it wants.
    """
    if name == MEDIAPIPE:
        from champ_jax.data.estimate.pose_mediapipe import open_mediapipe

        with open_mediapipe() as estimator:
            yield estimator
        return
    if not Path(name).exists():
        raise UserError(
            f"pose estimator {str(name)!r}: expected {MEDIAPIPE!r}, or a folder with a whole-body pose model and a detector (*.onnx)"
        )
    from champ_jax.data.estimate.pose_onnx import open_onnx

    yield Estimator(open_onnx(Path(name)))
