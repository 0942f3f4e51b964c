"""A video in the making: frames as they are done, kept by nobody unless asked to."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from champ_jax.infer.film import MIN_SIDE, Film
from champ_jax.infer.video import Video, skeleton_path, write_beside


class Rendering:
    """Iterate over it for frames u8 [m,H,W,3], once; or `save` it, which needs no more memory for an hour than for a second; or
    take it whole as a `video`.

    count: frames there will be. size: (height, width). fps: frames a second. skeleton: the maps that drive it, u8 [count,H,W,3] or
    what is read like that, or None. metadata: what makes it; `seconds` and `first_frame_seconds`, what that took, compiling
    included, are added at the end. done: frames that there have been.
    """

    def __init__(
        self, frames: Iterator[np.ndarray], count: int, size: tuple[int, int], fps: float, skeleton: Any, metadata: dict, began: float
    ):
        """frames: iterator of u8 [m,H,W,3]. began: what the clock (time.perf_counter) showed when the work did."""
        self.count, self.size, self.fps, self.skeleton, self.metadata, self.done = count, size, fps, skeleton, metadata, 0
        self._frames, self._began = frames, began

    def __iter__(self) -> Iterator[np.ndarray]:
        for frames in self._frames:
            self.metadata.setdefault("first_frame_seconds", time.perf_counter() - self._began)
            self.done += len(frames)
            self.metadata["seconds"] = time.perf_counter() - self._began
            yield frames

    def video(self) -> Video:
        """All of it, in memory."""
        frames = np.concatenate(list(self))
        return Video(frames, self.fps, None if self.skeleton is None else np.asarray(self.skeleton[:]), self.metadata)

    def save(self, path: str | os.PathLike, audio: str | os.PathLike | None = None, min_side: int = MIN_SIDE) -> None:
        """As `Video.save`, writing frames as they are done. Stopped by an exception, Ctrl-C for one, it leaves what there is of
        the videos so far as NAME.partial.mp4, which can be played."""
        with contextlib.ExitStack() as stack:
            films = [path] if self.skeleton is None else [path, skeleton_path(path)]
            film, *beside = (stack.enter_context(Film(name, self.size, self.fps, audio, min_side=min_side, keep=True)) for name in films)
            for frames in self:
                film.add(frames)
                for skeleton in beside:
                    skeleton.add(self.skeleton[self.done - len(frames) : self.done])
        write_beside(path, self.count, self.size, self.fps, self.metadata)
