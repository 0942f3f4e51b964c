"""What a batch of the loader looks like, without any data: for compiling a step before there is a data set."""

from typing import Any

import numpy as np

from champ_jax.pose.skeleton import J

Shapes = dict[str, Any]


def describe_batch(
    stage: str,
    *,
    batch_size: int,
    frames: int,
    size: int,
    kinds: tuple[str, ...] = (),
    motion_frames: int = 0,
    music_dim: int = 0,
    face_dim: int = 0,
    encoded: tuple[int, int, int] | None = None,
    references: int = 1,
) -> dict[str, Any]:
    """{entry: (shape, dtype), nested as the batch} of the batches that `loader.make_loader` makes with these arguments.

    encoded: (cells along each side, channels, width of the token or 0) of an encoder cache, whose rows replace photos.
    """
    B, F, R, S = batch_size, frames, references, size
    batch = _motion(B, F, music_dim, face_dim)
    if stage == "A":
        return batch
    images = lambda *shape: ((*shape, S, S, 3), np.uint8)  # noqa: E731
    batch |= {
        "reference_pose": images(B, R),
        "reference_keypoints": ((B, R, J, 2), np.float32),
        "reference_confidence": ((B, R, J), np.float32),
        "reference_weight": ((B, R), np.float32),
        "guidance": {kind: images(B, F) for kind in kinds},
        "mask": ((B, F, S, S), np.uint8),
        "face_box": ((B, F, 4), np.float32),
    }
    if encoded is None:
        batch |= {"video": images(B, F), "reference": images(B, R)}
    else:
        side, channels, width = encoded
        batch["moments"] = ((B, F, side, side, 2 * channels), np.float16)
        batch["reference_moments"] = ((B, R, side, side, 2 * channels), np.float16)
        batch |= {"reference_token": ((B, R, width), np.float16)} if width else {}
    if motion_frames:
        batch["motion"] = {**_motion(B, motion_frames, music_dim, face_dim), "index": ((B, F), np.int32)}
    return batch


def _motion(B: int, F: int, music_dim: int, face_dim: int) -> Shapes:
    shapes = {
        "keypoints": (B, F, J, 2),
        "confidence": (B, F, J),
        "reference_keypoints": (B, J, 2),
        "reference_confidence": (B, J),
        "face": (B, F, face_dim),
        "face_valid": (B, F),
        "reference_face": (B, face_dim),
        "music": (B, F, music_dim),
        "music_mask": (B,),
        "seconds": (B, F),
    }
    return {**{name: (shape, np.float32) for name, shape in shapes.items()}, "identity": ((B,), np.int32)}
