"""Who is in a picture, as the 134 keypoints of pose/skeleton.py, and what a pose estimator is: one call, whatever model is behind it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from champ_jax.errors import UserError
from champ_jax.pose.skeleton import J


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
