"""Videos in memory: a `Video` value, its files, and frames read back from a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np

from champ_jax.data.pose_files import write_keypoints
from champ_jax.errors import UserError
from champ_jax.files import write_text
from champ_jax.infer.film import MIN_SIDE, Film


@dataclass(frozen=True)
class Video:
    """A generated clip.

    frames: u8 [F,H,W,3] RGB. fps: frames per second.
    skeleton: u8 [F,H,W,3], the drawn pose that drove the clip, or None.
    metadata: what made the clip (seed, steps, keypoints and so on), plain values and arrays.
    """

    frames: np.ndarray
    fps: float
    skeleton: np.ndarray | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return len(self.frames) / self.fps

    def save(self, path: str | os.PathLike, audio: str | os.PathLike | None = None, min_side: int = MIN_SIDE) -> None:
        """Writes `path` and what belongs to it: `NAME.made.json`, the metadata's plain values; if there is a skeleton,
        `NAME.skeleton.mp4`; of a dance `NAME.motion.npz`, its keypoints. `audio` is muxed into both videos.

        min_side: frames are enlarged by the smallest whole factor that makes the short side this many pixels.
        Raises UserError when the place cannot be written or the song cannot be read.
        """
        write_video(path, self.frames, self.fps, audio, min_side)
        if self.skeleton is not None:
            write_video(skeleton_path(path), self.skeleton, self.fps, audio, min_side)
        write_beside(path, len(self.frames), self.frames.shape[1:3], self.fps, self.metadata)


def write_beside(path: str | os.PathLike, frames: int, size: tuple[int, int], fps: float, metadata: Mapping[str, Any]) -> None:
    """Writes what lies beside a video: `NAME.made.json`, and of a dance `NAME.motion.npz`; size: (height, width)."""
    path = Path(path)
    if "keypoints" in metadata:
        pose = metadata["keypoints"], metadata["confidence"]
        write_keypoints(path.with_suffix(".motion.npz"), *pose, size, metadata["motion_fps"])
    plain = {name: value for name, value in metadata.items() if isinstance(value, (str, int, float))}
    made = {"frames": frames, "fps": fps, **plain}
    write_text(path.with_suffix(".made.json"), json.dumps(made, indent=1) + "\n")


def skeleton_path(path: str | os.PathLike) -> Path:
    """dance.mp4 -> dance.skeleton.mp4"""
    return Path(path).with_suffix(".skeleton.mp4")


def write_video(
    path: str | os.PathLike,
    frames: np.ndarray,
    fps: float,
    audio: str | os.PathLike | None = None,
    min_side: int = MIN_SIDE,
) -> None:
    """Writes frames u8 [F,H,W,3] as H.264 (yuv420p, plays everywhere) with the beginning of `audio` as AAC.

    The audio track is cut, or filled with silence, to the length of the video. The file appears under its name only
    when it is complete: an interruption leaves the old file or none.
    """
    if len(frames) == 0:
        raise UserError(f"{path}: there are no frames to write")
    with Film(path, frames.shape[1:3], fps, audio, min_side=min_side) as film:
        film.add(frames)


def read_video(path: str | os.PathLike, max_frames: int | None = None) -> tuple[np.ndarray, float]:
    """Frames u8 [F,H,W,3] RGB and frames per second of a video file; UserError if it is not one."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path}: there is no video in this file")
            stream = container.streams.video[0]
            frames = []
            for frame in container.decode(stream):
                if max_frames is not None and len(frames) == max_frames:
                    break
                frames.append(frame.to_ndarray(format="rgb24"))
            fps = float(stream.average_rate)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path}: cannot read the video: {error}") from error
    if not frames:
        raise UserError(f"{path}: the video has no frames")
    return np.stack(frames), fps
