"""Small clips to judge: somebody's real frames moved about, on disk or in memory."""

from pathlib import Path

import numpy as np
from PIL import Image

from champ_jax.data.pose_files import write_keypoints
from champ_jax.evaluate.clips import Clip, Motion, frames_of
from champ_jax.infer.photo import standing_body
from champ_jax.infer.video import write_video
from tests.metrics.real import recorded

SIDE = 64


def film(number: int = 0, count: int = 20, side: int = SIDE) -> np.ndarray:
    """u8 [F,side,side,3]: a window that slides over a real frame, another one for each number."""
    whole = recorded()["frames"][number % 3]
    start = 30 + 7 * number
    return np.stack([whole[start : start + side, 20 + 2 * i : 20 + 2 * i + side] for i in range(count)])


def noisy(frames: np.ndarray, strength: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, frames.shape)
    return np.clip(frames + strength * noise, 0, 255).astype(np.uint8)


def swaying(fps: float = 24.0, seconds: float = 4.0, rate: float = 1.0, reach: float = 0.2, side: int = SIDE) -> Motion:
    """A body that sways, so that it stops at every half period."""
    keypoints, confidence = standing_body((side, side))
    time = np.arange(int(fps * seconds)) / fps
    sway = reach * side * np.cos(2 * np.pi * rate * time)
    moved = keypoints[None] + np.stack([sway, np.zeros_like(sway)], -1)[:, None]
    return Motion(fps, moved.astype(np.float32), np.repeat(confidence[None], len(time), 0), (side, side))


def clips(count: int = 3, strength: float = 0.0) -> dict:
    """{name: opens it} of clips in memory, with noise of growing strength."""

    def open_one(number: int) -> Clip:
        truth = film(number)
        generated = noisy(truth, strength * (number + 1)) if strength else truth
        return Clip(f"clip_{number}", 12.0, frames_of(generated), frames_of(truth), photo=truth[0])

    return {f"clip_{number}": lambda number=number: open_one(number) for number in range(count)}


def write_motion(path: Path, motion: Motion) -> None:
    write_keypoints(path, motion.keypoints, motion.confidence, motion.size, motion.fps)


def save_folders(root: Path, count: int = 3, strength: float = 8.0) -> dict[str, Path]:
    """Folders of generated and reference videos, photos, motion and music."""
    folders = {name: root / name for name in ("generated", "reference", "photos", "motion", "true_motion", "music")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for number in range(count):
        name, truth = f"clip_{number}", film(number)
        write_video(folders["reference"] / f"{name}.mp4", truth, 12, min_side=1)
        write_video(folders["generated"] / f"{name}.mp4", noisy(truth, strength), 12, min_side=1)
        Image.fromarray(truth[0]).save(folders["photos"] / f"{name}.png")
        write_motion(folders["motion"] / f"{name}.motion.npz", swaying(rate=1.0 + 0.1 * number))
        write_motion(folders["true_motion"] / f"{name}.motion.npz", swaying(reach=0.2 + 0.02 * number))
        (folders["music"] / f"{name}.json").write_text('{"beats_s": [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]}')
    return folders
