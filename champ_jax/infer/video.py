"""Videos in and out: a `Video` value, H.264 files with the song as AAC, and frames read back from a file."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from champ_jax.data.pose_files import write_keypoints
from champ_jax.errors import UserError
from champ_jax.files import write_text

# Videos of a small model are hard to see at one pixel a pixel: the short side is enlarged to at least this much.
MIN_SIDE = 384
AUDIO_RATE = 44100


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
    with Film(path, frames.shape[1:3], fps, audio, min_side) as film:
        film.add(frames)


def check_place(path: Path) -> None:
    """Makes the folder of a video; UserError when it cannot be written or the name is not of an mp4 file."""
    if path.suffix.lower() != ".mp4":
        raise UserError(f"{path}: videos are written as .mp4; give a name that ends in .mp4")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot make its folder: {error}") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"{path}: cannot be written; give another place")


def partial_path(path: str | os.PathLike) -> Path:
    """dance.mp4 -> dance.partial.mp4"""
    return Path(path).with_suffix(".partial.mp4")


class Film:
    """A video file that is written as frames come; a context manager, as in `write_video`.

    Leaving by an exception leaves the old file or none under the name; with `keep` what there was of it by then stays
    beside it, playable, as NAME.partial.mp4.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        size: tuple[int, int],
        fps: float,
        audio: str | os.PathLike | None = None,
        min_side: int = MIN_SIDE,
        keep: bool = False,
    ):
        """size: (height, width) of the frames, which are enlarged by the smallest whole factor that makes the short side min_side.
        Raises UserError when the place cannot be written or the song cannot be read."""
        self.path, self.frames, self._keep = Path(path), 0, keep
        check_place(self.path)
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._fps = Fraction(fps).limit_denominator(1001)
        self._scale = max(1, -(-min_side // min(size)))
        with self._errors():
            self._container = av.open(str(self._partial), "w", format="mp4", options={"movflags": "faststart"})
            self._stream = self._container.add_stream("libx264", rate=self._fps, options={"crf": "17"})
        height, width = (side * self._scale for side in size)
        # 4:2:0 halves the colour planes: an odd side gets its last row or column twice.
        self._odd = (height % 2, width % 2)
        self._stream.height, self._stream.width = height + self._odd[0], width + self._odd[1]
        self._stream.pix_fmt = "yuv420p"
        self._stream.color_range, self._stream.colorspace = ColorRange.MPEG, Colorspace.ITU709
        # Both streams have to exist before the first packet is written.
        self._sound = None if audio is None else _Sound(self._container, audio)

    def add(self, frames: np.ndarray) -> None:
        """Appends frames u8 [m,H,W,3], and the sound that belongs to them."""
        with self._errors():
            for frame in frames:
                self._container.mux(self._stream.encode(self._picture(frame)))
            self.frames += len(frames)
            if self._sound is not None:
                self._sound.write_until(round(float(self.frames / self._fps) * AUDIO_RATE))

    def __enter__(self) -> Film:
        return self

    def __exit__(self, kind, error, trace) -> None:
        whole = kind is None
        try:
            with self._errors():
                if self.frames and (whole or self._keep):
                    self._container.mux(self._stream.encode(None))
                    if self._sound is not None:
                        self._sound.finish()
                self._container.close()
                if self.frames and (whole or self._keep):
                    os.replace(self._partial, self.path if whole else partial_path(self.path))
        except UserError:
            if whole:
                raise  # else what stopped the video matters more than that the rest of it could not be kept
        finally:
            self._partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _errors(self):
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            raise UserError(f"{self.path}: cannot write the video: {error}") from error

    def _picture(self, frame: np.ndarray) -> av.VideoFrame:
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        height, width = (side * self._scale for side in frame.shape[:2])
        if self._scale > 1:
            picture = picture.reformat(width, height, "rgb24", interpolation="LANCZOS")
        if any(self._odd):
            pixels = np.pad(picture.to_ndarray(), ((0, self._odd[0]), (0, self._odd[1]), (0, 0)), mode="edge")
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        return picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)


class _Sound:
    """The track of a film's song, stereo AAC; silence after the song's end."""

    BLOCK = 1024

    def __init__(self, container, path: str | os.PathLike):
        self._container, self._stream = container, container.add_stream("aac", rate=AUDIO_RATE, layout="stereo")
        self._blocks = stereo_blocks(path, self.BLOCK)
        self._written = self._end = 0
        self._next = next(self._blocks)  # an unreadable song is known before the first frame

    def write_until(self, samples: int) -> None:
        """Writes whole blocks up to `samples`, counted from the beginning; the rest waits for the next time."""
        while self._written + self.BLOCK <= samples:
            self._write(self.BLOCK)
        self._end = samples

    def finish(self) -> None:
        """Writes what is left, and ends the track."""
        if self._end > self._written:
            self._write(self._end - self._written)
        self._container.mux(self._stream.encode(None))

    def _write(self, samples: int) -> None:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(self._next[:, :samples]), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = AUDIO_RATE, self._written, Fraction(1, AUDIO_RATE)
        self._container.mux(self._stream.encode(frame))
        self._written += samples
        self._next = next(self._blocks)


def stereo_blocks(path: str | os.PathLike, block: int) -> Iterator[np.ndarray]:
    """Any sound file as f32 [2,block] at 44.1 kHz, one after another; zeros after its end, for ever.

    Raises UserError for a file without sound.
    """
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=AUDIO_RATE)
    rest = np.zeros((2, 0), np.float32)
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise UserError(f"{path}: there is no sound in this file")
            decoded = itertools.chain(container.decode(container.streams.audio[0]), [None])
            for frame in decoded:
                for piece in resampler.resample(frame):
                    rest = np.concatenate([rest, piece.to_ndarray()], axis=1)
                while rest.shape[1] >= block:
                    yield rest[:, :block]
                    rest = rest[:, block:]
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path}: cannot read the song: {error}") from error
    yield np.pad(rest, ((0, 0), (0, block - rest.shape[1])))
    while True:
        yield np.zeros((2, block), np.float32)


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
