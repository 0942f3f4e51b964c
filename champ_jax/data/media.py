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
import re
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from champ_jax.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".flv", ".gif")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".aac")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
DECODER = Path(__file__).with_name("decode.py")
ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "HOME")
"""What the decoder needs to find its libraries; it gets no other variable, least of all a secret."""
IDLE_SECONDS = 120.0
"""Without a byte from the decoder a file counts as one that hangs it; decoding up to a frame far from a keyframe takes long, too."""
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


def in_order(name: str) -> list:
    """A key that sorts the numbers in names as numbers: frame_9 before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def shown(path: str | os.PathLike) -> str:
    """A path in words: names may hold what no terminal can print, or what would move its cursor."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(path))


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
        raise UserError(f"{shown(path)}: it lasts {about['seconds']:g} s; expected up to {LONGEST_HOURS} hours")
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
    fps = Fraction(fps).limit_denominator(1001)
    request = {"what": "frames", "fps": str(fps), "start": _on_the_grid(start, fps), "count": count, "longest": longest}
    with _decoder(Path(path), request) as (read, about):
        height, width = about["height"], about["width"]
        while data := read(height * width * 3):
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _on_the_grid(seconds: float, rate: Fraction | int) -> str:
    """A time as a fraction: that of a frame or sample if it is one but for rounding, so that pieces join whatever floats do."""
    nearest = round(Fraction(seconds) * rate) / Fraction(rate)
    return str(nearest if abs(nearest - Fraction(seconds)) < 1e-6 else Fraction(seconds).limit_denominator(10**9))


def read_audio(path: str | os.PathLike, rate: int, start: float = 0.0, seconds: float = 0.0) -> np.ndarray:
    """f32 [S] mono sound of `seconds` from `start` at `rate` Hz, on the clock of the file's video; silence where there is none.

    Raises:
      UserError: no sound, or damage.
    """
    count = round(seconds * rate)
    with _decoder(Path(path), {"what": "sound", "rate": rate, "start": _on_the_grid(start, rate), "count": count}) as (read, _):
        data = read(4 * count)
    return np.nan_to_num(np.frombuffer(data, np.float32), posinf=0.0, neginf=0.0)


def _open(path: Path, use):
    """`use(file descriptor)` of a regular file. Raises UserError for all else: a pipe or a device would never end."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(path)}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise UserError(f"{shown(path)}: is no regular file")
        return use(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def _decoder(path: Path, request: dict):
    """(read(bytes) -> bytes, none at the end; what the decoder says first) of a decoder at work on a file."""
    settings = {"cpu_seconds": CPU_SECONDS, "memory_bytes": MEMORY_BYTES}

    def start(file: int) -> subprocess.Popen:
        command = [sys.executable, "-P", str(DECODER), json.dumps({**request, **settings, "file": file})]
        # One thread: on hosts with many processors the buffers of a library's threads alone would fill the address space.
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ} | {"OPENBLAS_NUM_THREADS": "1"}
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(file,),
            env=environment,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C is for us: the file is not to be taken for a broken one
        )

    process = _open(path, start)
    pipe, to_its_end = process.stdout.fileno(), ""

    def read(size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            if not select.select([pipe], [], [], IDLE_SECONDS)[0]:
                raise UserError(f"{shown(path)}: the decoder gave nothing for {IDLE_SECONDS:g} s; the file hangs it")
            more = os.read(pipe, min(size - len(data), 1 << 20))
            if not more:
                break
            data.extend(more)
        if len(data) < size:
            # The end, of which only the exit status says whether it is a good one.
            reason = _reason(process)
            if reason or data:
                raise UserError(f"{shown(path)}: cannot be read{to_its_end}: {reason or 'the decoder died on it'}")
        return bytes(data)

    try:
        line = bytearray()
        while not line.endswith(b"\n"):
            line.extend(read(1) or b"\n")
        try:
            about = json.loads(line)
        except ValueError:
            raise UserError(f"{shown(path)}: cannot be read: the decoder said nothing of it") from None
        to_its_end = " to its end"
        yield read, about
    finally:
        process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()


def _reason(process: subprocess.Popen) -> str:
    """Why a decoder that has closed its output failed; "" if it did not."""
    try:
        status = process.wait(IDLE_SECONDS)
    except subprocess.TimeoutExpired:
        return "the decoder does not end"
    if status == 0:
        return ""
    said = os.read(process.stderr.fileno(), 1 << 16).decode(errors="replace").strip().splitlines()
    try:
        return json.loads(said[-1])["error"]
    except (ValueError, LookupError, TypeError):
        limits = "; it had no more time" if -status in (signal.SIGXCPU, signal.SIGKILL) else ""
        return f"the decoder died on it (status {status}{limits})"


def read_image(path: str | os.PathLike) -> np.ndarray:
    """u8 [H,W,3] RGB of an image file; upright by its EXIF tag, transparency on white, grey and 16 bits as RGB of 8.

    Raises:
      UserError: missing, damaged, no image, or more pixels than any photo: refused by what its first bytes say, before it is unpacked.
    """
    return _read_image(path, lambda image: to_rgb(ImageOps.exif_transpose(image)))


def check_image(path: str | os.PathLike) -> None:
    """Raises UserError as `read_image` would, as far as can be told without unpacking the pixels."""
    _read_image(path, lambda image: image.verify())


def _read_image(path: str | os.PathLike, use: Callable[[Image.Image], Any]) -> Any:
    path = Path(path)

    def read(file: int):
        with os.fdopen(os.dup(file), "rb") as stream, Image.open(stream, formats=("PNG", "JPEG", "WEBP", "BMP")) as image:
            if image.width * image.height > MOST_IMAGE_PIXELS:
                raise UserError(f"{shown(path)}: {image.width}x{image.height} pixels; at most {MOST_IMAGE_PIXELS} are taken")
            # Cameras put several views into one JPEG (MPO), of which the first is the photo.
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise UserError(f"{shown(path)}: an animation of {image.n_frames} images, where one is expected")
            return use(image)

    try:
        return _open(path, read)
    except (UserError, MemoryError):
        raise
    except UnidentifiedImageError as error:  # whose own message names an open file's address
        raise UserError(f"{shown(path)}: cannot read the image: it is in no known format; give a PNG or JPEG file") from error
    except Exception as error:  # PIL lets out whatever its readers stumble over in a damaged file
        raise UserError(f"{shown(path)}: cannot read the image: {error}; give a PNG or JPEG file") from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """u8 [H,W,3] of an image of any mode; transparency on white."""
    if image.mode.startswith("I"):  # 16 bits, as depth maps often have; PIL itself would cut them off at 255
        image = Image.fromarray(np.round(np.asarray(image, np.float32).clip(0, 65535) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))
