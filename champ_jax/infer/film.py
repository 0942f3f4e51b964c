"""A video file that is written while its frames are made: H.264, with a song, or with sound that is still arriving, as AAC."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from champ_jax.errors import UserError

# Videos of a small model are hard to see at one pixel a pixel: the short side is enlarged to at least this much.
MIN_SIDE = 384
AUDIO_RATE = 44100
BLOCK = 1024  # samples that AAC encodes together
FRAGMENT_SECONDS = 1.0  # of a film whose sound is arriving: it plays up to its last whole fragment if its writer is killed


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
    """A video file that is written as frames come; a context manager.

    Leaving by an exception leaves the old file or none under the name; with `keep` what there was of it by then stays
    beside it, playable, as NAME.partial.mp4, until there is a whole one.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        size: tuple[int, int],
        fps: float,
        song: str | os.PathLike | None = None,
        *,
        rate: int | None = None,
        min_side: int = MIN_SIDE,
        keep: bool = False,
    ):
        """size: (height, width) of the frames, which are enlarged by the smallest whole factor that makes the short side min_side.
        song: a sound file; its beginning, and silence after its end, becomes a track as long as the frames. rate: Hz, in place of a
        song, of mono sound that `hear` is given while the film is made; the file is then written in fragments and no frame waits for
        later ones.
        Raises UserError when the place cannot be written or the song cannot be read."""
        self.path, self.frames, self._keep = Path(path), 0, keep
        check_place(self.path)
        self._song = None if song is None else _Song(song)
        self._heard = None if rate is None else _Heard(rate)
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._fps = Fraction(fps).limit_denominator(1001)
        self._scale = max(1, -(-min_side // min(size)))
        file_options, options = {"movflags": "faststart"}, {"crf": "17"}
        if rate is not None:
            # delay_moov: the header waits for the first sound, to say how much of it is the encoder's run-up.
            file_options = {"movflags": "frag_keyframe+empty_moov+default_base_moof+delay_moov", "flush_packets": "1"}
            options |= {"preset": "veryfast", "tune": "zerolatency", "g": str(max(1, round(FRAGMENT_SECONDS * fps)))}
        with self._errors():
            self._container = av.open(str(self._partial), "w", format="mp4", options=file_options)
            self._stream = self._container.add_stream("libx264", rate=self._fps, options=options)
            height, width = (side * self._scale for side in size)
            # 4:2:0 halves the colour planes: an odd side gets its last row or column twice.
            self._odd = (height % 2, width % 2)
            self._stream.height, self._stream.width = height + self._odd[0], width + self._odd[1]
            self._stream.pix_fmt = "yuv420p"
            self._stream.color_range, self._stream.colorspace = ColorRange.MPEG, Colorspace.ITU709
            # Both streams have to exist before the first packet is written.
            silent = song is None and rate is None
            self._track = None if silent else self._container.add_stream("aac", rate=AUDIO_RATE, layout="stereo")

    def add(self, frames: np.ndarray) -> None:
        """Appends frames u8 [m,H,W,3], and what of the song belongs to them."""
        with self._errors():
            for frame in frames:
                self._container.mux(self._stream.encode(self._picture(frame)))
            self.frames += len(frames)
            if self._song is not None:
                self._add_sound(self._song.until(round(float(self.frames / self._fps) * AUDIO_RATE)))

    def hear(self, block: np.ndarray) -> None:
        """Appends mono sound f32 [S] of a film with a `rate`."""
        with self._errors():
            self._add_sound(self._heard.stereo(block))

    def _add_sound(self, frames: Iterator[av.AudioFrame]) -> None:
        for frame in frames:
            self._container.mux(self._track.encode(frame))

    def __enter__(self) -> Film:
        return self

    def __exit__(self, kind, error, trace) -> None:
        whole = kind is None
        try:
            with self._errors():
                if self.frames and (whole or self._keep):
                    self._container.mux(self._stream.encode(None))
                    if self._track is not None:
                        self._add_sound((self._song or self._heard).rest())
                        self._container.mux(self._track.encode(None))
                self._container.close()
                if self.frames and (whole or self._keep):
                    os.replace(self._partial, self.path if whole else partial_path(self.path))
                    if whole and self._keep:
                        partial_path(self.path).unlink(missing_ok=True)
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


class _Song:
    """The beginning of a song in frames of stereo sound, and silence after its end."""

    def __init__(self, path: str | os.PathLike):
        self._blocks = stereo_blocks(path, BLOCK)
        self._given = self._end = 0
        self._next = next(self._blocks)  # an unreadable song is known before the first frame

    def until(self, samples: int) -> Iterator[av.AudioFrame]:
        """Whole blocks up to `samples`, counted from the beginning; the rest waits for the next time."""
        while self._given + BLOCK <= samples:
            yield self._take(BLOCK)
        self._end = samples  # when it is sure that the song can be read so far: `rest` comes after an error too

    def rest(self) -> Iterator[av.AudioFrame]:
        """What is left before the last `until`."""
        if self._end > self._given:
            yield self._take(self._end - self._given)

    def _take(self, samples: int) -> av.AudioFrame:
        frame = _sound(self._next[:, :samples], "fltp", "stereo", AUDIO_RATE, self._given)
        self._given += samples
        self._next = next(self._blocks)
        return frame


class _Heard:
    """Mono sound at any rate, as it arrives, in frames of stereo sound."""

    def __init__(self, rate: int):
        self._rate, self._heard = rate, 0
        self._resampler = av.AudioResampler(format="fltp", layout="stereo", rate=AUDIO_RATE, frame_size=BLOCK)

    def stereo(self, block: np.ndarray) -> Iterator[av.AudioFrame]:
        """Whole blocks of what has been heard, with `block` f32 [S]; the rest waits for the next time."""
        frame = _sound(block[None], "flt", "mono", self._rate, self._heard)
        self._heard += len(block)
        yield from self._resampler.resample(frame)

    def rest(self) -> Iterator[av.AudioFrame]:
        """What is left."""
        yield from self._resampler.resample(None)


def _sound(samples: np.ndarray, format: str, layout: str, rate: int, start: int) -> av.AudioFrame:
    """Sound f32 [channels,S] at `rate` Hz whose first sample is the number `start`."""
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=format, layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
    return frame


def stereo_blocks(path: str | os.PathLike, block: int) -> Iterator[np.ndarray]:
    """Any sound file as f32 [2,block] at 44.1 kHz, one after another; zeros after its end, for ever.

    Raises UserError for a file without sound.
    """
    rest = np.zeros((2, 0), np.float32)
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise UserError(f"{path}: there is no sound in this file")
            for piece in _resampled(container.decode(container.streams.audio[0])):
                rest = np.concatenate([rest, piece.to_ndarray()], axis=1)
                while rest.shape[1] >= block:
                    yield rest[:, :block]
                    rest = rest[:, block:]
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path}: cannot read the song: {error}") from error
    yield np.pad(rest, ((0, 0), (0, block - rest.shape[1])))
    while True:
        yield np.zeros((2, block), np.float32)


def _resampled(frames: Iterator[av.AudioFrame]) -> Iterator[av.AudioFrame]:
    """Sound of any kind as stereo at 44.1 kHz; the kind may change, as it does where files were joined."""
    kind = resampler = None
    for frame in frames:
        if kind != (kind := (frame.sample_rate, frame.layout.name, frame.format.name)):
            if resampler is not None:
                yield from resampler.resample(None)
            resampler = av.AudioResampler(format="fltp", layout="stereo", rate=AUDIO_RATE)
        yield from resampler.resample(frame)
    if resampler is not None:
        yield from resampler.resample(None)
