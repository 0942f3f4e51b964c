"""Videos in and out: a `Video` value, H.264 files with the song as AAC, and frames read back from a file."""

import json
import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from champ_jax.checkpoint.tensors import atomic_file
from champ_jax.data.pose_given import write_keypoints
from champ_jax.errors import UserError

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
        path, known = Path(path), self.metadata
        if "keypoints" in known:
            pose = known["keypoints"], known["confidence"]
            write_keypoints(path.with_suffix(".motion.npz"), *pose, self.frames.shape[1:3], known["motion_fps"])
        plain = {name: value for name, value in known.items() if isinstance(value, (str, int, float))}
        made = {"frames": len(self.frames), "fps": self.fps, **plain}
        with atomic_file(path.with_suffix(".made.json")) as file:
            file.write(f"{json.dumps(made, indent=1)}\n".encode())


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
    path = Path(path)
    check_place(path)
    if len(frames) == 0:
        raise UserError(f"{path}: there are no frames to write")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as container:
            _encode(container, frames, Fraction(fps).limit_denominator(1001), audio, min_side)
        os.replace(partial, path)
    except (OSError, av.FFmpegError) as error:
        raise UserError(f"{path}: cannot write the video: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


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


def _encode(container, frames: np.ndarray, fps: Fraction, audio, min_side: int) -> None:
    height, width = frames.shape[1:3]
    scale = max(1, -(-min_side // min(height, width)))
    stream = container.add_stream("libx264", rate=fps, options={"crf": "17"})
    stream.width, stream.height = width * scale, height * scale
    # 4:2:0 halves the colour planes: an odd side gets its last row or column twice.
    odd = (stream.height % 2, stream.width % 2)
    stream.width, stream.height = stream.width + odd[1], stream.height + odd[0]
    stream.pix_fmt = "yuv420p"
    stream.color_range, stream.colorspace = ColorRange.MPEG, Colorspace.ITU709
    sound = None
    if audio is not None:
        # Both streams have to exist before the first packet is written.
        sound = container.add_stream("aac", rate=AUDIO_RATE, layout="stereo")
    for frame in frames:
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        if scale > 1:
            picture = picture.reformat(width * scale, height * scale, "rgb24", interpolation="LANCZOS")
        if any(odd):
            pixels = np.pad(picture.to_ndarray(), ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
        container.mux(stream.encode(picture))
    container.mux(stream.encode(None))
    if sound is not None:
        _encode_audio(container, sound, audio, round(float(len(frames) / fps) * AUDIO_RATE))


def _encode_audio(container, sound, path, samples: int) -> None:
    """The first `samples` samples of the file at `path`, stereo; silence after its end."""
    wave = read_stereo(path, samples)
    block = 1024
    for start in range(0, samples, block):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, start : start + block]), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = AUDIO_RATE, start, Fraction(1, AUDIO_RATE)
        container.mux(sound.encode(frame))
    container.mux(sound.encode(None))


def read_stereo(path: str | os.PathLike, samples: int) -> np.ndarray:
    """The first `samples` samples of any sound file as f32 [2,samples] at 44.1 kHz, zeros after its end."""
    wave = np.zeros((2, samples), np.float32)
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=AUDIO_RATE)
    done = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise UserError(f"{path}: there is no sound in this file")
            decoded = container.decode(container.streams.audio[0])
            for frame in [*_until(decoded, samples), None]:
                for piece in resampler.resample(frame):
                    block = piece.to_ndarray()[:, : samples - done]
                    wave[:, done : done + block.shape[1]] = block
                    done += block.shape[1]
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path}: cannot read the song: {error}") from error
    return wave


def _until(frames, samples: int):
    """Decoded audio frames until they hold `samples` samples at our rate."""
    seconds = 0.0
    for frame in frames:
        yield frame
        seconds += frame.samples / frame.sample_rate
        if seconds * AUDIO_RATE >= samples + AUDIO_RATE // 10:
            return


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
