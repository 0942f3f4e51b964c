"""What is judged: a generated clip and what belongs to it. Videos are streams, so that memory does not grow with them."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Frames = Callable[[], Iterator[np.ndarray]]
"""Begins a video anew: its frames, u8 [H,W,3], one after the other."""
BLOCK = 16
"""Frames that are held at once."""


@dataclass(frozen=True)
class Motion:
    """A person's movement. fps: frames a second. keypoints [T,134,2] pixels of a frame of `size` (H, W), confidence [T,134]; or
    positions [T,24,3], SMPL's joints in metres, y up."""

    fps: float
    keypoints: np.ndarray | None = None
    confidence: np.ndarray | None = None
    size: tuple[int, int] | None = None
    positions: np.ndarray | None = None


@dataclass(frozen=True)
class Flow:
    """Where each point goes: forward f32 [F-1,H,W,2] pixels, and whether it is still seen there, bool [F-1,H,W]."""

    forward: np.ndarray
    seen: np.ndarray


@dataclass(frozen=True)
class Clip:
    """One generated clip and what it is compared with; what is absent is not judged.

    fps: frames a second of both videos. photo: u8 [H,W,3], the person as given. mask: of frames [H,W], 1 on the person. motion: of
    the generated clip; reference_motion: the true or driving one. beats: of the music, seconds of the clip. flow: exact, of the
    reference. made: what made the generated video: seconds, first_frame_seconds and frames, or nothing. scores: further ones of frames,
    (u8 [n,H,W,3], number of the first) -> {metric: [n]}.
    """

    name: str
    fps: float = 0.0
    generated: Frames | None = None
    reference: Frames | None = None
    photo: np.ndarray | None = None
    mask: Frames | None = None
    motion: Motion | None = None
    reference_motion: Motion | None = None
    beats: np.ndarray | None = None
    flow: Flow | None = None
    made: Mapping[str, Any] = field(default_factory=dict)
    scores: Callable[[np.ndarray, int], dict[str, np.ndarray]] | None = None


def frames_of(video: np.ndarray) -> Frames:
    """A video that is in memory, [F,...], as a stream."""
    return lambda: iter(video)


class Blocks:
    """Frames of several videos at the same times, up to `size` at once, each u8 [n,...]; as many as the shortest has.

    An absent video is None in every block. longer: when all blocks are read, the numbers of the videos that have more frames.
    """

    def __init__(self, *streams: Frames | None, size: int = BLOCK):
        self._streams, self._size = streams, size
        self.longer: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[tuple[np.ndarray | None, ...]]:
        end = object()
        opened = [stream() if stream is not None else itertools.repeat(None) for stream in self._streams]
        held: list[tuple] = []
        while True:
            row = tuple(next(frames, end) for frames in opened)
            if any(item is end for item in row):
                self.longer = tuple(i for i, item in enumerate(row) if item is not end and item is not None)
                break
            held.append(row)
            if len(held) == self._size:
                yield self._stacked(held)
                held = []
        if held:
            yield self._stacked(held)

    @staticmethod
    def _stacked(rows: list[tuple]) -> tuple[np.ndarray | None, ...]:
        return tuple(None if column[0] is None else np.stack(column) for column in zip(*rows))
