"""Small films for tests, written with PyAV: pictures that tell their number, clicks at known times."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 48_000


def film(
    path: Path,
    frames: np.ndarray,
    fps: Fraction | int = 25,
    sound: np.ndarray | None = None,
    times: np.ndarray | None = None,
    ratio: Fraction | None = None,
    rotation: int = 0,
    codec: str = "mpeg4",
    start: float = 0.0,
    sound_codec: str | None = None,
    sound_start: float = 0.0,
    sound_time: Callable[[float], float] = lambda seconds: seconds,
    options: dict | None = None,
    container_options: dict | None = None,
    matrix: str = "",
) -> Path:
    """Writes frames u8 [F,H,W,3] and sound f32 [S] at 48 kHz. times: seconds of each frame, for a rate that varies; ratio: of a pixel's
    sides; rotation: degrees to the left that a player turns the picture by; start, sound_start: time stamps of the first picture and
    sound; sound_time: the time stamp of what is heard at some second, where it is another; matrix: "709" for the colours of HD."""
    fps = Fraction(fps)
    base = Fraction(1, 90_000) if times is not None or start else 1 / fps
    kind = {".ts": "mpegts", ".mpg": "mpeg"}.get(path.suffix)
    with av.open(str(path), "w", format=kind, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        if ratio:
            stream.codec_context.sample_aspect_ratio = ratio
        stream.bit_rate = 4_000_000
        usual = "aac" if path.suffix in (".mp4", ".mov") else "pcm_s16le"
        audio = container.add_stream(sound_codec or usual, rate=RATE) if sound is not None else None
        if audio is not None:
            audio.codec_context.layout = "mono"
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            if matrix:
                frame = frame.reformat(format="yuv420p", dst_colorspace=f"ITU{matrix}")
            frame.time_base = stream.codec_context.time_base
            frame.pts = round((start + float(number / fps if times is None else times[number])) / base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            _encode_sound(container, audio, sound, lambda seconds: sound_time(seconds) + sound_start)
    if rotation:
        turn(path, rotation)
    return path


def _encode_sound(container, stream, sound: np.ndarray, time: Callable[[float], float]) -> None:
    for start in range(0, len(sound), 1024):
        part = np.ascontiguousarray(sound[start : start + 1024], np.float32)[None]
        kind = stream.codec_context.format.name
        if kind.startswith("s16"):
            frame = av.AudioFrame.from_ndarray((part.clip(-1, 1) * 32767).astype(np.int16), format=kind, layout="mono")
        else:
            frame = av.AudioFrame.from_ndarray(part, format=kind, layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), round(time(start / RATE) * RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def turn(path: Path, degrees: int) -> None:
    """Writes a rotation into the display matrix of an mp4's video track."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd")
    matrix = place + 4 + 4 + 20 + 16
    one = 1 << 16
    rows = {90: (0, -one, one, 0), 180: (-one, 0, 0, -one), 270: (0, one, -one, 0)}[degrees]
    for offset, value in zip((0, 4, 12, 16), rows):
        data[matrix + offset : matrix + offset + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)


def counting(count: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """u8 [F,H,W,3]: frames whose left and right halves are the grey digits of their number, below 100."""
    frames = np.zeros((count, *size, 3), np.uint8)
    half = size[1] // 2
    for number, frame in enumerate(frames):
        frame[:, :half], frame[:, half:] = number // 10 * 25 + 15, number % 10 * 25 + 15
    return frames


def number_of(frame: np.ndarray) -> int:
    """Which frame of `counting` a decoded one is."""
    width = frame.shape[1]
    tens, ones = frame[:, : width // 2 - 4].mean(), frame[:, width // 2 + 4 :].mean()
    return 10 * round((tens - 15) / 25) + round((ones - 15) / 25)


def clicks(times: list[float], seconds: float) -> np.ndarray:
    """f32 [S]: short bursts at these times."""
    sound = np.zeros(round(seconds * RATE), np.float32)
    burst = np.sin(2 * np.pi * 2000 * np.arange(480) / RATE) * np.hanning(960)[480:]
    for time in times:
        start = round(time * RATE)
        sound[start : start + 480] = burst[: len(sound) - start] * 0.9
    return sound
