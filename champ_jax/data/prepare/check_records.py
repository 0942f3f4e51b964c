"""Whether training could read every clip of a set of records, and what of: `champ-jax prepare --check`."""

from pathlib import Path

import numpy as np

from champ_jax.data.clip import Clip
from champ_jax.data.records import open_records, splits_of
from champ_jax.data.schema import IMAGES
from champ_jax.errors import UserError
from champ_jax.pose.skeleton import THRESHOLD

AWAY = 0.5
"""A joint that is seen further outside the frame than so much of its size is no joint."""


def check_records(directory: Path) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """({split: figures}, {clip: what is wrong with it}) of all splits; every record and image is read.

    Raises:
      UserError: there are no records.
    """
    from champ_jax.data.prepare.sheet import statistics

    figures, wrong = {}, {}
    for split in splits_of(directory):
        records = open_records(directory, split)
        for number, info in enumerate(records.infos):
            try:
                reason = fault(records[number])
            except UserError as error:
                reason = str(error)
            if reason:
                wrong[f"{split}/{info.clip_id}"] = reason
        if not any(name.startswith(f"{split}/") for name in wrong):
            figures[split] = statistics(records)
    return figures, wrong


def fault(clip: Clip) -> str:
    """What is wrong with a clip, or "". Raises UserError for an image that cannot be decoded."""
    for kind in IMAGES:
        for number in range(len(clip[kind])):
            clip.image(kind, number)
    keypoints, confidence = clip.keypoints(np.arange(clip.n_frames))
    seen = confidence >= THRESHOLD
    if not np.isfinite(keypoints).all():
        return "a keypoint is not a number"
    if not seen.any():
        return "not one joint is seen in it"
    height, width = clip.size
    outside = (keypoints < -AWAY * np.array([width, height])) | (keypoints > (1 + AWAY) * np.array([width, height]))
    if (outside.any(-1) & seen).any():
        frame = int(np.argmax((outside.any(-1) & seen).any(1)))
        return f"frame {frame}: a joint that is seen lies far outside the picture"
    music = np.asarray(clip["music"], np.float32)
    if not np.isfinite(music).all():
        return "its music has features that are not numbers"
    lacking = clip.n_frames * clip.frame_seconds - (len(music) / clip["music_fps"] + clip["audio_offset_s"] if len(music) else 1e9)
    if lacking > 0.2:
        return f"its music ends {lacking:.1f} s before the motion"
    valid = np.asarray(clip["face_valid"]) > 0
    if valid.any():
        lengths = np.linalg.norm(clip["face_emb"][valid].astype(np.float32), axis=1)
        if (np.abs(lengths - 1) > 0.05).any():
            return "an embedding of its face is not of unit length"
    return ""
