"""Frames of a dance while its song is still arriving: `stream(pipeline, photo, blocks of sound, rate=...)`.

Sound goes through in hops of a few frames: features of the last ten seconds (audio/streaming.py), poses (live_motion.py), frames
(live_frames.py). Every array has a fixed shape and everything is compiled before the first block is asked for, so delay and memory stay
what they are however long the song is.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from champ_jax.audio.load import MIN_SECONDS
from champ_jax.errors import UserError
from champ_jax.infer.live_frames import LiveFrames, Quality
from champ_jax.infer.live_motion import LiveMotion
from champ_jax.infer.music import Motion, check_dances
from champ_jax.infer.people import who
from champ_jax.infer.photo import load_photos
from champ_jax.infer.sample import check_seed

HOP = 4  # frames that are made together
CONTEXT = 8  # finished frames that the denoiser sees beside them
AHEAD_SECONDS = 0.25  # of sound after a frame that its pose waits for
SLICE_SECONDS = 0.25  # a block is taken in slices of at most this, so that a long one needs no more memory
SMALLER = 2 / 3  # of the size, the last quality that is given up
TOO_MUCH, ROOM = 0.95, 0.7  # of a hop's time: above the one quality falls, below the other it may rise
PATIENCE = 8  # hops that must have had room before quality rises
LATE_SECONDS = 1.0  # behind the sound, at the lowest quality, until frames are left out


class LiveFrame(NamedTuple):
    """image: u8 [H,W,3]. seconds: of the sound it belongs to. keypoints: f32 [J,2] in its pixels; confidence: f32 [J]. quality: what it
    was computed at. repeated: the image is an older one, because this one would have come too late."""

    image: np.ndarray
    seconds: float
    keypoints: np.ndarray
    confidence: np.ndarray
    quality: Quality
    repeated: bool


def stream(
    pipeline: Any,
    image: Any,
    chunks: Iterable[np.ndarray],
    *,
    rate: int,
    pose: Any = None,
    face: np.ndarray | None = None,
    photo_weights: Any = None,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    hop: int = HOP,
    context: int = CONTEXT,
    ahead: float = AHEAD_SECONDS,
    keep_up: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[LiveFrame]:
    """The person of a photo dances to sound as it comes: an iterator of frames at `settings.fps`, one for each whole frame of sound.

    Returns when everything is compiled, which is the slow part; closing the iterator closes `chunks` and lets go of everything.

    image, pose, face, photo_weights, size, seed, steps, guidance_scale: as of `Pipeline.dance`.
    chunks: blocks f32 [S] of mono sound, of any lengths; rate: their samples a second.
    hop: frames made together; context: finished frames the denoiser sees beside them. ahead: seconds of sound that a pose waits for. A
    frame comes between `ahead` and `ahead` plus a hop after its sound, and what computing a hop takes.
    keep_up: the chunks arrive in real time. Quality falls when a hop takes longer than it lasts, first steps, then context, then size, and
    rises when there is room; at the lowest, frames that would come more than a second late repeat the one before.
    Raises UserError, at once, for a model without M2P or skeleton guidance, a wrong rate, size, hop or photo; and, while iterating, for
    blocks that are no sound, and when there were none.
    """
    check_dances(pipeline)
    size = pipeline.check_size(size)
    if hop < 1 or context < 0 or not 0 <= ahead < math.inf:
        raise UserError(f"hop {hop}, context {context}, ahead {ahead}: expected a hop of at least 1 frame and no negative numbers")
    check_seed(seed)
    sampling = pipeline.sample_settings(steps, guidance_scale, {})
    photos = load_photos(image, size, pose, pipeline.faces)
    person = who(photos, photo_weights, face)
    settings = pipeline.settings
    poses = max(1, round(hop * settings.motion_fps / settings.fps))
    motion = LiveMotion(pipeline, photos[0], person.face, rate, poses, round(ahead * settings.motion_fps))
    qualities = _ladder(Quality(sampling.steps, context, size), pipeline) if keep_up else [Quality(sampling.steps, context, size)]
    painters = []
    for quality in qualities:
        small = photos if quality.size == size else load_photos(image, quality.size, pose, pipeline.faces)
        painters.append(LiveFrames(pipeline, who(small, photo_weights, person.face), quality, hop, seed, sampling.guidance_scale))
    face = np.zeros(pipeline.config.m2p.face_dim, np.float32) if person.face is None else person.face
    still = Motion(*(np.repeat(array[None], hop, 0) for array in (photos[0].keypoints, photos[0].confidence, face)))
    governor = Governor([_warm(painter, still, size, clock) for painter in painters], hop / settings.fps)
    return _frames(chunks, rate, _Show(motion, painters, governor, still, settings.fps, clock), keep_up)


class Governor:
    """Chooses the quality: `level` counts from the best, 0. costs: seconds of a hop at each; seconds: what a hop may take."""

    def __init__(self, costs: list[float], seconds: float):
        self.costs, self.seconds = costs, seconds
        self.level = next((i for i, cost in enumerate(costs) if cost < ROOM * seconds), len(costs) - 1)
        self._room = 0

    def spent(self, seconds: float) -> None:
        """The last hop took so long; the next one's quality follows from it."""
        last = len(self.costs) - 1
        if seconds > TOO_MUCH * self.seconds and self.level < last:
            self.level, self._room = self.level + 1, 0
            return
        # What the better one would have taken, were the machine as busy as it was now.
        better = seconds * self.costs[self.level - 1] / max(self.costs[self.level], 1e-9) if self.level else math.inf
        self._room = self._room + 1 if better < ROOM * self.seconds else 0
        if self._room >= PATIENCE:
            self.level, self._room = self.level - 1, 0

    @property
    def lowest(self) -> bool:
        return self.level == len(self.costs) - 1


def _ladder(best: Quality, pipeline: Any) -> list[Quality]:
    """Qualities from the best down: fewer steps, then no context, then a smaller picture."""
    steps = sorted({best.steps, max(1, best.steps // 2), max(1, best.steps // 4)}, reverse=True)
    found = [best._replace(steps=count) for count in steps]
    if best.context > 2:
        found.append(found[-1]._replace(context=2))
    cell = pipeline.config.vae.downsampling * 2 ** (len(pipeline.config.unet.channels) - 1)
    small = tuple(min(side, max(cell, round(side * SMALLER / cell) * cell)) for side in best.size)
    return [*found, found[-1]._replace(size=small)] if small != best.size else found


def _warm(painter: LiveFrames, still: Motion, size: tuple[int, int], clock: Callable[[], float]) -> float:
    """Compiles what `painter` needs; the seconds of a hop after that. Twice: the past is first made here and then by the network."""
    _paint(painter, 0, still, size)
    _paint(painter, 0, still, size)
    began = clock()
    _paint(painter, 0, still, size)
    painter.past = None
    return clock() - began


def _paint(painter: LiveFrames, first: int, motion: Motion, size: tuple[int, int]) -> np.ndarray:
    """Frames u8 [hop,*size,3] of poses in pixels of `size`, by a painter of the same size or a smaller one."""
    own = painter.quality.size
    scale = np.array([own[1] / size[1], own[0] / size[0]], np.float32)
    frames = painter.draw(first, motion.keypoints * scale, motion.confidence, motion.face)
    if own == size:
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC)) for frame in frames])


class _Show:
    """What a stream carries from hop to hop."""

    def __init__(self, motion: LiveMotion, painters: list[LiveFrames], governor: Governor, still: Motion, fps: float, clock):
        self.motion, self.painters, self.governor, self.clock, self.fps = motion, painters, governor, clock, fps
        self.hop, self.size = len(still.keypoints), painters[0].quality.size
        self.made = 0
        self._image: np.ndarray | None = None
        self._painter = painters[governor.level]
        self._poses, self._first = Motion(*(array[:0] for array in still)), 0

    def hops(self, due: float = math.inf) -> Iterator[list[LiveFrame]]:
        """The frames of every hop whose sound has been heard; due: when, by the clock, its newest sound was played."""
        while True:
            began = self.clock()
            if (poses := self._next_poses()) is None:
                return
            late = self._image is not None and self.governor.lowest and began - due > LATE_SECONDS
            if late:
                frames = np.repeat(self._image[None], self.hop, 0)
            else:
                wanted = self.painters[self.governor.level]
                if wanted is not self._painter:
                    wanted.follow(self._painter)
                    self._painter = wanted
                frames = _paint(self._painter, self.made, poses, self.size)
                self.governor.spent(self.clock() - began)
            self._image = frames[-1]
            times = (self.made + np.arange(self.hop)) / self.fps
            self.made += self.hop
            yield [LiveFrame(*frame, self._painter.quality, late) for frame in zip(frames, times, poses.keypoints, poses.confidence)]

    def _next_poses(self) -> Motion | None:
        """Those of the next hop of frames, or None while sound is missing."""
        index = np.round((self.made + np.arange(self.hop)) * self.motion.fps / self.fps).astype(int) - self._first
        while len(self._poses.keypoints) <= index[-1]:
            if (step := self.motion.step()) is None:
                return None
            self._poses = Motion(*(np.concatenate(pair) for pair in zip(self._poses, step)))
        found = Motion(*(array[index] for array in self._poses))
        self._poses, self._first = Motion(*(array[index[-1] :] for array in self._poses)), self._first + index[-1]
        return found


def _frames(chunks: Iterable[np.ndarray], rate: int, show: _Show, keep_up: bool) -> Iterator[LiveFrame]:
    """The generator behind `stream`."""
    heard, began = 0, None
    try:
        for piece in _slices(chunks, rate):
            began = show.clock() if began is None else began
            show.motion.music.push(piece)
            heard += len(piece)
            for frames in show.hops(began + heard / rate if keep_up else math.inf):
                yield from frames
        if heard < MIN_SECONDS * rate:
            raise UserError(f"the stream ended after {heard} samples at {rate} Hz: at least {MIN_SECONDS} s of sound are needed")
        # The last frames wait for sound that will not come.
        total = max(1, math.floor(heard / rate * show.fps + 1e-6))
        while show.made < total:
            show.motion.music.push(np.zeros(round(SLICE_SECONDS * rate), np.float32))
            for frames in show.hops():
                yield from frames[: max(0, total - show.made + show.hop)]
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


def _slices(chunks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """The blocks in slices of at most SLICE_SECONDS; UserError for a block that is no sound."""
    most = max(1, round(SLICE_SECONDS * rate))
    for block in chunks:
        block = np.asarray(block)
        if block.ndim != 1 or block.dtype != np.float32:
            raise UserError(f"a block of sound is {block.dtype}{list(block.shape)}: give mono float32 [samples] in -1 to 1")
        if not np.isfinite(block).all():
            raise UserError("a block of sound holds NaN or infinite samples; check the source")
        for start in range(0, len(block), most):
            yield block[start : start + most]
