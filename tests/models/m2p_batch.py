"""A tiny M2P and a batch of dancing that its music explains."""

import numpy as np

from champ_jax.models.m2p import M2PConfig
from tests.pose.person import dance

FACE = 8
TINY = M2PConfig(
    music_dim=12, width=32, layers=1, heads=2, ff=64, projection=32, music_layers=1, pose_tokens=2, joint_dim=8,
    bins_x=24, bins_y=24, face_dim=FACE, dropout=0.0,
)  # fmt: skip


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def motion_batch(batch=2, frames=24, seed=0, music_dim=12):
    """A stage A batch of NumPy arrays at 24 frames a second."""
    draw = np.random.default_rng(seed)
    clips = [dance(frames, seed=seed + i) for i in range(batch)]
    keypoints, confidence = (np.stack(x) for x in zip(*clips, strict=True))
    time = np.arange(frames) / 24
    waves = np.concatenate([f(2 * np.pi * time[:, None] * np.linspace(0.5, 2, music_dim // 2)) for f in (np.sin, np.cos)], 1)
    face = unit(draw.normal(size=(batch, 1, FACE)) + 0.1 * draw.normal(size=(batch, frames, FACE)))
    return {
        "keypoints": keypoints,
        "confidence": confidence,
        "reference_keypoints": keypoints[:, 0],
        "reference_confidence": confidence[:, 0],
        "music": (waves + np.arange(batch)[:, None, None]).astype(np.float32),
        "music_mask": np.ones(batch, np.float32),
        "face": face,
        "face_valid": np.ones((batch, frames), np.float32),
        "reference_face": face[:, 0],
        "seconds": np.tile(time, (batch, 1)).astype(np.float32),
    }
