"""The program that opens foreign media: `python -P decode.py`, run by media.py and by nobody else.

The only place where FFmpeg meets a file that a user has not made. It runs in a process of its own, with limits on time and memory,
that can open neither files nor sockets once it begins to read; it is given an open file and no name. So there are no entries of
playlists, no addresses, no other protocols. It writes one line of JSON, then raw frames or samples, to its standard output. Where it
fails it ends with status FAILED and one line of JSON, the reason, on its standard error.
"""

import itertools
import json
import math
import os
import resource
import sys
from fractions import Fraction

MARKS = [
    (b"ftyp", 4, "mp4"), (b"moov", 4, "mov"), (b"mdat", 4, "mov"), (b"wide", 4, "mov"), (b"free", 4, "mov"), (b"skip", 4, "mov"),
    (b"\x1a\x45\xdf\xa3", 0, "matroska"), (b"AVI ", 8, "avi"), (b"FLV", 0, "flv"), (b"GIF8", 0, "gif"),
    (b"\x00\x00\x01\xba", 0, "mpeg"), (b"WAVE", 8, "wav"), (b"fLaC", 0, "flac"), (b"OggS", 0, "ogg"), (b"ID3", 0, "mp3"),
    (b"\xff\xfb", 0, "mp3"), (b"\xff\xf3", 0, "mp3"), (b"\xff\xf2", 0, "mp3"), (b"\xff\xf1", 0, "aac"), (b"\xff\xf9", 0, "aac"),
]  # fmt: skip
"""(what a file holds, at which byte, FFmpeg's name of the container) of all that may be opened; mpegts besides."""
MOST_PIXELS = 8192 * 4608
MOST_SECONDS = 12 * 3600
MOST_FPS = 240
"""A higher rate is that of the time stamps (Matroska without a rate of its own), not of pictures."""
NO_PROGRESS = 2000
"""Packets without a frame after which a stream counts as endless rubbish."""
UNSEEKABLE = ("gif", "mp3", "aac", "mpeg")
"""Containers whose time stamps are guesses after a seek: these are read from the beginning each time."""
HD_HEIGHT = 720
SLIP = Fraction(1, 50)
"""Seconds by which time stamps of sound may differ from what its samples add up to."""
MILLISECONDS = 0.002
FAILED = 3


class Refused(Exception):
    """The file cannot be used; the text says why."""


def limit(cpu_seconds: int, memory_bytes: int) -> None:
    """Limits of this process, before anything is read."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def shut() -> None:
    """From here on this process opens neither files nor sockets, whatever a file makes FFmpeg try."""
    # What is imported later has to be loaded before, also what PyAV itself puts off until then.
    import importlib
    import pkgutil

    import av
    import numpy  # noqa: F401

    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name not in ("av.__main__", "av.datasets"):
            importlib.import_module(module.name)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def container_of(head: bytes) -> str:
    """FFmpeg's name of the container that a file begins like. Raises Refused for all that is not on the list."""
    for mark, place, name in MARKS:
        if head[place : place + len(mark)] == mark:
            return name
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return "mpegts"
    if not head:
        raise Refused("the file is empty")
    raise Refused("it is no video or sound that is known (mp4, mov, mkv, webm, avi, ts, mpg, flv, gif; wav, flac, ogg, mp3, m4a, aac)")


class Opened:
    """A file as PyAV opens it, by its content and never by its name.

    video, sound: its streams, or None. origin: seconds of its first picture on the container's clock, or of its first sound if it has
    no video. first: that picture or sound.
    """

    def __init__(self, file):
        self._file, self.origin, self._delay = file, Fraction(0), Fraction(0)
        self._open()
        if (first := next(self._decoded(self.video or self.sound), None)) is None:
            raise Refused("its video has not one frame" if self.video is not None else "its sound has not one sample")
        self.origin, self.first = first
        if self.name == "avi" and self.video is not None:
            # Its times are those of packets, and pictures that wait for others are not shown later for it.
            self._delay, self.origin = self.origin, Fraction(0)

    def _open(self) -> None:
        import av

        self._file.seek(0)
        self.name = container_of(self._file.read(512))
        self._file.seek(0)
        options = {"protocol_whitelist": "", "probesize": "20000000", "analyzeduration": "20000000"}
        # Titles in other alphabets than they should be are no reason to refuse a film; from 19 on PyAV takes them as they are.
        titles = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
        self.container = av.open(self._file, format=self.name, options=options, **titles)
        self.video, self.sound = self._find_video(), next(iter(self.container.streams.audio), None)
        if self.video is None and self.sound is None:
            raise Refused("it holds neither video nor sound")

    def _find_video(self):
        """The first video stream that is no cover picture, set up for decoding, or None."""
        for stream in self.container.streams.video:
            if stream.codec_context is None or "attached_pic" in str(stream.disposition):
                continue
            if stream.codec_context.width * stream.codec_context.height > MOST_PIXELS:
                raise Refused(f"{stream.codec_context.width}x{stream.codec_context.height} pixels; at most {MOST_PIXELS} are taken")
            stream.thread_count = 1
            return stream
        return None

    @property
    def rate(self) -> Fraction | None:
        """Pictures a second on average, as far as the file says it."""
        rates = (self.video.average_rate, self.video.guessed_rate, self.video.base_rate)
        return next((Fraction(rate) for rate in rates if rate and 0 < rate <= MOST_FPS), None)

    @property
    def ratio(self) -> float:
        """Width of a pixel by its height."""
        return float(self.video.sample_aspect_ratio or self.video.codec_context.sample_aspect_ratio or 1) or 1.0

    def claimed_seconds(self) -> float | None:
        """How long the video is, or a sound alone, as the file says of this very stream."""
        stream = self.video or self.sound
        if self.name == "mpeg":
            return None  # it does not say it, and FFmpeg guesses
        if stream.duration:
            return float(stream.duration * stream.time_base)
        try:
            hours, minutes, seconds = stream.metadata["DURATION"].split(":")  # the end of each stream, as Matroska has it
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - float(self.origin)
        except (KeyError, ValueError):
            alone = self.container.duration and len(self.container.streams) == 1
            return self.container.duration / 1e6 if alone else None

    def count_packets(self) -> tuple[float, int]:
        """(seconds, packets) of the video, or of a sound alone, as its packets say."""
        self._open()
        begin, end, count = None, 0.0, 0
        for packet in self.container.demux(self.video or self.sound):
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None:
                count += 1
                time = float(stamp * packet.time_base)
                begin = time if begin is None else min(begin, time)
                end = max(end, time + float((packet.duration or 0) * packet.time_base))
        return end - (begin or 0.0), count

    def frames(self, stream, start: Fraction):
        """(seconds from the origin, frame) in order, beginning at or before `start` where there is something so early."""
        origin = self.origin
        for earlier in () if self.name in UNSEEKABLE else (Fraction(1, 2), Fraction(3), Fraction(20)):
            # Where pictures are stored in another order than they are shown, the keyframe that is found may be too late.
            if earlier < start and (frames := self._sought(stream, start - earlier, start)):
                break
        else:
            self._open()
            frames = self._decoded(self.video if stream.type == "video" else self.sound)
        for time, frame in frames:
            if time - origin > MOST_SECONDS:
                raise Refused(f"it lasts more than {MOST_SECONDS // 3600} hours")
            yield time - origin, frame

    def _sought(self, stream, place: Fraction, start: Fraction):
        """Frames from a keyframe near `place` on, or None if the first of them comes after `start`."""
        import av

        try:
            self.container.seek(int((place + self.origin) / stream.time_base), stream=stream, backward=True)
            frames = self._decoded(stream)
            first = next(frames, None)
        except av.FFmpegError:
            return None
        return itertools.chain([first], frames) if first is not None and first[0] <= start + self.origin else None

    def _decoded(self, stream):
        """(seconds on the container's clock, frame) of all frames from where the container stands.

        What cannot be decoded is left out before the first frame (a recording that begins amid a group of pictures) and at the very
        end; a little of a sound also elsewhere, pictures nowhere.
        """
        import av

        is_video, idle, seen, damaged, before = stream.type == "video", 0, 0, 0, None
        step = Fraction(1, self.rate or 25) if is_video else Fraction(0)
        for packet in self.container.demux(stream):
            idle, seen = idle + 1, seen + 1
            if idle > NO_PROGRESS:
                raise Refused(f"{NO_PROGRESS} packets without a {'picture' if is_video else 'sound'}")
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                if isinstance(error, MemoryError):
                    raise
                damaged += before is not None and not isinstance(error, EOFError)
                continue
            for frame in frames:
                if is_video and frame.is_corrupt:
                    damaged += before is not None
                    continue
                if damaged > (0 if is_video else 3 + seen // 100):
                    raise Refused(f"it is damaged after {float(before - self.origin):.2f} s")
                time = self._time(frame, before, step)
                if before is not None and time < before - 1:
                    raise Refused(f"its time stamps go back by {float(before - time):.1f} s after {float(before - self.origin):.2f} s")
                before, idle = time if before is None else max(time, before), 0
                yield before, frame

    def _time(self, frame, before: Fraction | None, step: Fraction) -> Fraction:
        """Seconds on the container's clock."""
        # AVI has no times, only an order: those that FFmpeg makes for pictures are wrong where there are B-frames, those of packets right.
        stamps = (frame.pts, frame.dts)
        if self.name == "avi" and step:
            stamps = (frame.dts, frame.pts if before is None else None)
        stamp = next((stamp for stamp in stamps if stamp is not None), None)
        if stamp is not None:
            return Fraction(stamp) * frame.time_base - (self._delay if step else 0)
        return Fraction(0) if before is None else before + step


def probe(opened: Opened) -> dict:
    """What media.Media holds."""
    video, sound = opened.video, opened.sound
    seconds, rate, first, origin = opened.claimed_seconds(), opened.rate if video is not None else None, opened.first, opened.origin
    about = {"container": opened.container.format.name, "has_audio": sound is not None, "codec": (video or sound).codec_context.name}
    about |= {"width": 0, "height": 0, "fps": "0", "frames": 0, "offset": 0.0}
    if video is not None:
        width, height, _ = _upright(first, opened.ratio)
        about |= {"width": width, "height": height, "frames": video.frames}
        if sound is not None:
            about["offset"] = float((sound.start_time or 0) * sound.time_base - origin)
    if seconds is None or (video is not None and rate is None):
        counted, count = opened.count_packets()
        seconds = counted if seconds is None else seconds
        rate = rate or Fraction(count / counted if counted else 0).limit_denominator(1001)
    if rate and abs(round(seconds * rate) / rate - seconds) < MILLISECONDS:
        seconds = round(seconds * rate) / rate  # Matroska and FLV count whole milliseconds: the last picture would be lost
    return about | {"seconds": float(seconds), "fps": str(rate or 0)}


def _upright(frame, ratio: float) -> tuple[int, int, int]:
    """(width, height, quarter turns to the left) of a picture as it is to be seen."""
    width, height = max(1, round(frame.width * ratio)), frame.height
    turns = round(frame.rotation / 90) % 4
    return (height, width, turns) if turns % 2 else (width, height, turns)


class Pictures:
    """Writes pictures as raw RGB, upright, in square pixels, all of one size; a line that says which goes before them."""

    def __init__(self, opened: Opened, out, longest: int):
        first, self._ratio, self._out = opened.first, opened.ratio, out
        self._stored = first.width, first.height
        width, height, _ = _upright(first, self._ratio)
        if width * height > MOST_PIXELS:
            raise Refused(f"{width}x{height} pixels; at most {MOST_PIXELS} are taken")
        scale = min(1.0, longest / max(width, height)) if longest else 1.0
        self.size = tuple(max(2, 2 * round(side * scale / 2)) for side in (width, height))
        self._last, self._bytes = None, b""
        _say(out, {"width": self.size[0], "height": self.size[1]})

    def write(self, frame) -> None:
        """One picture; the same one again costs nothing."""
        if frame is not self._last:
            self._last, self._bytes = frame, self._rgb(frame)
        self._out.write(self._bytes)

    def _rgb(self, frame) -> bytes:
        import numpy
        from av.video.reformatter import Colorspace

        if (frame.width, frame.height) != self._stored:
            raise Refused(f"its pictures change from {self._stored[0]}x{self._stored[1]} to {frame.width}x{frame.height} pixels")
        turns = _upright(frame, self._ratio)[2]
        width, height = self.size[::-1] if turns % 2 else self.size
        # Nothing said means the colours of HD for large pictures, as players take it; FFmpeg takes those of SD.
        said = frame.colorspace in (1, 4, 5, 6, 7, 9, 10)
        colours = {} if said or frame.height < HD_HEIGHT else {"src_colorspace": Colorspace.ITU709}
        array = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA", **colours)
        return numpy.ascontiguousarray(numpy.rot90(array, turns)).tobytes()


def write_frames(opened: Opened, out, fps: Fraction, start: Fraction, count: int, longest: int) -> None:
    """`count` pictures as raw RGB: picture i is what is seen at start + i/fps, where a picture stays until the next one comes.

    A picture may come early by half the time between two, of the file's or of ours, whichever is shorter: so what comes at t is first
    seen in picture round(t * fps), or with fewer pictures than the file's each is the nearest one; and rounded time stamps do no harm.
    """
    if opened.video is None:
        raise Refused("it holds no video")
    interval = 1 / (opened.rate or fps)
    early = min(interval, 1 / fps) / 2
    pictures, number, held, end = Pictures(opened, out, longest), 0, None, Fraction(0)

    def show_until(time: Fraction) -> bool:
        """Shows the held picture up to a time; whether all are written."""
        nonlocal number
        due = min(count, math.ceil((time - early - start) * fps))
        while number < due and held is not None:
            pictures.write(held)
            number += 1
        return number >= count

    for seconds, frame in opened.frames(opened.video, start):
        if show_until(seconds):
            break
        held, end = frame, seconds + (frame.duration * frame.time_base if frame.duration else interval)
    else:
        if not show_until(end):
            claimed = opened.claimed_seconds() or 0.0
            if claimed - float(end) > max(1.0, 0.05 * claimed):
                raise Refused(f"it ends after {float(end):.1f} of {claimed:.1f} s: it is cut off or damaged")
    if not number:
        raise Refused(f"there is no picture at {float(start):.2f} s: it ends after {float(end):.2f} s")
    out.flush()


class Samples:
    """Writes `count` samples in order from sample `first` of a clock on, silence where none are given."""

    def __init__(self, out, first: int, count: int):
        self._out, self._next, self._end = out, first, first + count

    @property
    def done(self) -> bool:
        return self._next >= self._end

    def put(self, place: int, samples) -> None:
        """Samples f32 [S] that begin at `place`; what has been written stays."""
        if place > self._next:
            self.fill(place)
        samples = samples[self._next - place :][: self._end - self._next]
        self._out.write(samples.tobytes())
        self._next += len(samples)

    def fill(self, place: int | None = None) -> None:
        """Silence up to `place`, or to the end."""
        place = self._end if place is None else min(place, self._end)
        while self._next < place:
            silent = min(place - self._next, 1 << 16)
            self._out.write(bytes(4 * silent))
            self._next += silent


def write_sound(opened: Opened, out, rate: int, start: Fraction, count: int) -> None:
    """`count` samples f32 of the mean of all channels at `rate` from `start`, on the video's clock."""
    import av

    if opened.sound is None:
        raise Refused("it holds no sound")
    _say(out, {"rate": rate})
    samples = Samples(out, round(start * rate), count)
    resampler = kind = expected = place = None

    def put(frame) -> None:
        nonlocal place
        for part in resampler.resample(frame):
            values = part.to_ndarray().mean(0, dtype="float32")
            samples.put(place, values)
            place += len(values)

    for seconds, frame in opened.frames(opened.sound, start):
        now = frame.format.name, frame.layout.name, frame.sample_rate
        # Where a stream leaves a hole, or its clock drifts away from its samples, what follows keeps its time.
        if kind != now or abs(seconds - expected) > SLIP:
            if resampler is not None:
                put(None)
            resampler, kind, place, expected = av.AudioResampler("fltp", frame.layout, rate), now, round(seconds * rate), seconds
        expected += Fraction(frame.samples, frame.sample_rate)
        put(frame)
        if samples.done:
            break
    if resampler is not None and not samples.done:
        put(None)
    samples.fill()
    out.flush()


def _say(out, about: dict) -> None:
    out.write(json.dumps(about).encode() + b"\n")


def main(request: dict) -> None:
    """Does what media.py asks: {"what": "probe", "frames" or "sound", ...}."""
    limit(request["cpu_seconds"], request["memory_bytes"])
    out, errors = os.fdopen(os.dup(1), "wb"), os.fdopen(os.dup(2), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # whatever a library prints must not be taken for pictures
    os.dup2(nowhere, 2)
    reason = None
    try:
        shut()
        with os.fdopen(request["file"], "rb") as file:
            opened, start = Opened(file), Fraction(request.get("start", 0))
            if request["what"] == "probe":
                _say(out, probe(opened))
            elif request["what"] == "frames":
                write_frames(opened, out, Fraction(request["fps"]), start, request["count"], request["longest"])
            else:
                write_sound(opened, out, request["rate"], start, request["count"])
        out.flush()
    except BrokenPipeError:
        os._exit(0)  # nobody reads any more
    except MemoryError:
        reason = "it takes more memory than is given to one file"
    except Exception as error:  # whatever PyAV and FFmpeg find wrong
        said = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        reason = str(error) if isinstance(error, Refused) else f"{said}: it is damaged, or was never finished"
    if reason is not None:
        _say(errors, {"error": reason.replace("\n", " ")[:300]})
        errors.flush()
        out.flush()
        os._exit(FAILED)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
