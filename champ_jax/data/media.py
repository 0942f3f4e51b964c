"""Videos, sounds and images of unknown origin, read safely: what they are, their frames at a constant rate, their sound on the same clock.

FFmpeg runs in a process of its own (decode.py), with limits on time and memory, and sees an open file, never a name. Frames are
upright, in square pixels, and frame i is what is seen at start + i/fps; sample 0 of a sound is what is heard at `start`. Seconds count
from a video's first picture.
"""

import contextlib
import dataclasses
import functools
import json
import os
import select
import stat
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from champ_jax.errors import UserError

DECODER = Path(__file__).with_name("decode.py")
IDLE_SECONDS = 30.0
"""Without a byte from the decoder a file counts as one that hangs it."""
CPU_SECONDS = 600
MEMORY_BYTES = 4 << 30
LONGEST_HOURS = 12
MOST_IMAGE_PIXELS = 1 << 26


@dataclasses.dataclass(frozen=True)
class Media:
    """What a file holds. width, height: upright, in square pixels, 0 without video. seconds: of the video, or of the sound alone.
    fps: on average. frames: as the file says, 0 for unknown. audio_offset_s: how much later the sound begins than the video.
    """

    path: Path
    width: int
    height: int
    seconds: float
    fps: Fraction
    frames: int
    has_audio: bool
    audio_offset_s: float
    container: str
    codec: str


def probe(path: str | os.PathLike) -> Media:
    """What a file of video or sound holds.

    Raises:
      UserError: it is none, it is damaged, or no regular file.
    """
    path = Path(path)
    return _probe(path, _open(path, lambda file: os.fstat(file).st_mtime_ns))


@functools.lru_cache(maxsize=256)
def _probe(path: Path, modified: int) -> Media:
    with _decoder(path, {"what": "probe"}) as (_, about):
        pass
    if not 0 < about["seconds"] < LONGEST_HOURS * 3600:
        raise UserError(f"{path}: it lasts {about['seconds']:g} s; expected up to {LONGEST_HOURS} hours")
    return Media(
        path=path,
        width=about["width"],
        height=about["height"],
        seconds=about["seconds"],
        fps=Fraction(about["fps"]),
        frames=about["frames"],
        has_audio=about["has_audio"],
        audio_offset_s=about["offset"],
        container=about["container"],
        codec=about["codec"],
    )


def read_frames(path: str | os.PathLike, fps: Fraction, start: float = 0.0, count: int = 1 << 40, longest: int = 0) -> Iterator[np.ndarray]:
    """`count` frames from `start` seconds, u8 [H,W,3]; fewer where the video ends.

    Args:
      fps: frames a second, whatever the file's own rate is: each is the picture nearest to its time.
      longest: pixels to which the longer side is scaled down; 0 leaves it.

    Raises:
      UserError: no video, or damage; also amid the frames.
    """
    request = {"what": "frames", "fps": float(fps), "start": start, "count": count, "longest": longest}
    with _decoder(Path(path), request) as (read, about):
        height, width = about["height"], about["width"]
        while data := read(height * width * 3):
            if len(data) < height * width * 3:
                raise _told(path, data)
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)


def read_audio(path: str | os.PathLike, rate: int, start: float = 0.0, seconds: float = 0.0) -> np.ndarray:
    """f32 [S] mono sound of `seconds` from `start` at `rate` Hz, on the clock of the file's video; silence where there is none.

    Raises:
      UserError: no sound, or damage.
    """
    count = round(seconds * rate)
    with _decoder(Path(path), {"what": "sound", "rate": rate, "start": start, "count": count}) as (read, _):
        data = read(4 * count)
        if len(data) < 4 * count:
            raise _told(path, data)
    return np.nan_to_num(np.frombuffer(data, np.float32), posinf=0.0, neginf=0.0)


def _told(path, data: bytes) -> UserError:
    """The error that the decoder ended with, or that it ended without a word."""
    line = data[data.rfind(b'{"error"') :] if b'{"error"' in data else b""
    with contextlib.suppress(ValueError):
        return UserError(f"{path}: cannot be read to its end: {json.loads(line)['error']}")
    return UserError(f"{path}: cannot be read to its end: the decoder died on it")


def _open(path: Path, use):
    """`use(file descriptor)` of a regular file. Raises UserError for all else: a pipe or a device would never end."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise UserError(f"{path}: is no regular file")
        return use(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def _decoder(path: Path, request: dict):
    """(read(bytes) -> bytes, fewer at the end; what the decoder says first) of a decoder at work on a file."""
    settings = {"cpu_seconds": CPU_SECONDS, "memory_bytes": MEMORY_BYTES}

    def start(file: int) -> subprocess.Popen:
        command = [sys.executable, "-I", str(DECODER), json.dumps({**request, **settings, "file": file})]
        environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(file,),
            env=environment,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C is for us: the file is not to be taken for a broken one
        )

    process = _open(path, start)
    pipe = process.stdout.fileno()
    left = bytearray()

    def read(size: int) -> bytes:
        while len(left) < size:
            if not select.select([pipe], [], [], IDLE_SECONDS)[0]:
                raise UserError(f"{path}: the decoder gave nothing for {IDLE_SECONDS:.0f} s; the file hangs it")
            more = os.read(pipe, min(size - len(left), 1 << 20))
            if not more:
                break
            left.extend(more)
        data = bytes(left[:size])
        del left[:size]
        return data

    try:
        line = bytearray()
        while not line.endswith(b"\n"):
            more = read(1)
            if not more:
                raise UserError(f"{path}: cannot be read: the decoder died on it, or had no more time or memory")
            line.extend(more)
        about = json.loads(line)
        if "error" in about:
            raise UserError(f"{path}: cannot be read: {about['error']}")
        yield read, about
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def read_image(path: str | os.PathLike) -> np.ndarray:
    """u8 [H,W,3] RGB of an image file; upright by its EXIF tag, transparency on white, grey and 16 bits as RGB of 8.

    Raises:
      UserError: missing, damaged, no image, or more pixels than any photo: refused by what its first bytes say, before it is unpacked.
    """
    path = Path(path)

    def read(file: int) -> Image.Image:
        with os.fdopen(os.dup(file), "rb") as stream, Image.open(stream, formats=("PNG", "JPEG", "WEBP", "BMP")) as image:
            if image.width * image.height > MOST_IMAGE_PIXELS:
                raise UserError(f"{path}: {image.width}x{image.height} pixels; at most {MOST_IMAGE_PIXELS} are taken")
            image = ImageOps.exif_transpose(image)
            image.load()
            return image

    try:
        return to_rgb(_open(path, read))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot read the image: {error}; give a PNG or JPEG file") from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """u8 [H,W,3] of an image of any mode; transparency on white."""
    if image.mode.startswith("I"):  # 16 bits, as depth maps often have; PIL itself would cut them off at 255
        image = Image.fromarray(np.round(np.asarray(image, np.float32).clip(0, 65535) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))
