"""Guidance maps from images by ONNX models that a user has: depth (Depth-Anything V1 and V2), normals and parts (Sapiens).

Expected are the published exports: one image input [1,3,H,W], normalised as ImageNet is; depth gives relative inverse depth [1,H,W] or
[1,1,H,W], large is near; normals give [1,3,H,W]; parts give scores [1,28,H,W]. Where a model takes any size, depth runs at 518 pixels
and the others at 1024 x 768.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from champ_jax.data.estimate.onnx_session import open_session
from champ_jax.errors import UserError

MapModel = Callable[[np.ndarray], np.ndarray]
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
SIZES = {"depth": (518, 518), "normal": (1024, 768), "semantic_map": (1024, 768)}
CHANNELS = {"depth": 1, "normal": 3, "semantic_map": 28}


def part_colours(count: int) -> np.ndarray:
    """u8 [count,3]: colours of body parts that are told apart easily; part 0, the background, is black."""
    hues = (np.arange(count) * 67 % 180).astype(np.uint8)
    values = np.where(np.arange(count) % 2, 255, 170).astype(np.uint8)
    colours = cv2.cvtColor(np.stack([hues, np.full(count, 220, np.uint8), values], -1)[None], cv2.COLOR_HSV2RGB)[0]
    colours[0] = 0
    return colours


def open_map_model(kind: str, path: Path) -> MapModel:
    """A function from an image u8 [H,W,3] to its map, u8 [H,W] for depth and [H,W,3] for the others.

    Raises:
      UserError: onnxruntime or the file is missing, or it is no model of this kind.
    """
    if kind not in SIZES:
        raise UserError(f"maps of {kind!r}: expected one of {', '.join(SIZES)}; dwpose is drawn from the pose")
    session = open_session(path)
    (image,) = session.get_inputs()[:1]
    if len(image.shape) != 4 or image.shape[1] not in (3, "3"):
        raise UserError(f"{path}: its input {image.name} is {image.shape}; expected an image [1,3,H,W]")
    height, width = (side if isinstance(side, int) else usual for side, usual in zip(image.shape[2:], SIZES[kind]))

    def run(frame: np.ndarray) -> np.ndarray:
        scaled = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        (found,) = session.run(None, {image.name: ((scaled - MEAN) / STD).transpose(2, 0, 1)[None]})[:1]
        found = np.asarray(found, np.float32).reshape(-1, *np.shape(found)[-2:])
        if len(found) != CHANNELS[kind]:
            raise UserError(f"{path}: it gives {list(np.shape(found))}; a model of {kind} gives {CHANNELS[kind]} channels")
        return encode(kind, found, frame.shape[:2])

    return run


def encode(kind: str, found: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A model's output f32 [C,h,w] as the map u8 of an image of `size` (H, W)."""
    if kind == "depth":
        near, far = float(found.max()), float(found.min())
        depth = cv2.resize(found[0], size[::-1], interpolation=cv2.INTER_LINEAR)
        return ((depth - far) / max(near - far, 1e-6) * 254 + 1).clip(1, 255).astype(np.uint8)
    if kind == "normal":
        normal = cv2.resize(found.transpose(1, 2, 0), size[::-1], interpolation=cv2.INTER_LINEAR)
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
        return (127.5 * (1 + normal)).round().clip(0, 255).astype(np.uint8)
    parts = found.argmax(0).astype(np.uint8)
    return part_colours(CHANNELS[kind])[cv2.resize(parts, size[::-1], interpolation=cv2.INTER_NEAREST)]
