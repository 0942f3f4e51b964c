"""The face in each frame of a clip: where it is, whether it can be recognised, and its embedding.

Where to look is known from the pose. Every `EVERY`-th frame is embedded: an identity does not change from frame to frame, and what
is not looked at is not marked as valid. Vectors of different models are never mixed, so records name theirs.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from champ_jax.pose.skeleton import FACE, NOSE, THRESHOLD

EVERY = 5
ROOM = 0.45
"""Of a face's size, around its points: the forehead lies above them all."""
LEAST_PIXELS, CHIP = 24, 256
HEAD = (0, 14, 15, 16, 17)
"""Nose, eyes and ears."""


class FaceModel(NamedTuple):
    """embed: a crop u8 [H,W,3] around one face to (f32 [dim] of unit length, whether a face was found). name: for the records."""

    embed: Callable[[np.ndarray], tuple[np.ndarray, bool]]
    dim: int
    name: str


def face_boxes(keypoints: np.ndarray, confidence: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """f32 [T,4] xyxy of the face in each frame of `size` (H, W), by its 68 points or else by nose, eyes
    and ears; zeros where it is not seen."""
    boxes = np.zeros((len(keypoints), 4), np.float32)
    for frame, (points, sure) in enumerate(zip(keypoints, confidence)):
        dots = points[FACE][sure[FACE] >= THRESHOLD]
        if len(dots) >= 20:
            low, high = dots.min(0), dots.max(0)
            side = float((high - low).max())
        else:
            seen = [joint for joint in HEAD if sure[joint] >= THRESHOLD]
            if NOSE not in seen or len(seen) < 3:
                continue
            low, high = points[seen].min(0), points[seen].max(0)
            side = 1.2 * float((high - low).max())
        middle = (low + high) / 2
        half = side * (0.5 + ROOM)
        box = np.concatenate([middle - half, middle + half]).clip(0, [size[1], size[0]] * 2)
        if min(box[2] - box[0], box[3] - box[1]) >= LEAST_PIXELS:
            boxes[frame] = box
    return boxes


def embed_faces(model: FaceModel, frame_at: Callable[[int], np.ndarray], boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(embeddings f16 [T,E], valid u8 [T]) of the faces in boxes f32 [T,4]; frame_at(t) gives the frame u8 [H,W,3]."""
    vectors, valid = np.zeros((len(boxes), model.dim), np.float16), np.zeros(len(boxes), np.uint8)
    for frame in range(0, len(boxes), EVERY):
        x0, y0, x1, y1 = boxes[frame].round().astype(int)
        if x1 <= x0 or y1 <= y0:
            continue
        crop = frame_at(frame)[y0:y1, x0:x1]
        scale = CHIP / max(crop.shape[:2])
        if scale > 1:
            crop = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        vectors[frame], valid[frame] = model.embed(crop)
    return vectors, valid
