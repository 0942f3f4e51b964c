"""The program that opens foreign media: `python -I decode.py`, run by media.py and by nobody else.

The only place where FFmpeg meets a file that a user has not made. It runs in a process of its own with limits on time, memory,
files and threads; it is given an open file and no name, so FFmpeg can open nothing else: no playlist's entries, no address, no
other protocol. It writes one line of JSON, then raw frames or samples, to its standard output.
"""

import json
import os
import resource
import sys

MARKS = [
    (b"ftyp", 4, "mp4"), (b"moov", 4, "mov"), (b"mdat", 4, "mov"), (b"wide", 4, "mov"), (b"free", 4, "mov"), (b"skip", 4, "mov"),
    (b"\x1a\x45\xdf\xa3", 0, "matroska"), (b"AVI ", 8, "avi"), (b"FLV", 0, "flv"), (b"GIF8", 0, "gif"),
    (b"\x00\x00\x01\xba", 0, "mpeg"), (b"WAVE", 8, "wav"), (b"fLaC", 0, "flac"), (b"OggS", 0, "ogg"), (b"ID3", 0, "mp3"),
    (b"\xff\xfb", 0, "mp3"), (b"\xff\xf3", 0, "mp3"), (b"\xff\xf2", 0, "mp3"), (b"\xff\xf1", 0, "aac"), (b"\xff\xf9", 0, "aac"),
]  # fmt: skip
"""(what a file holds, at which byte, FFmpeg's name of the container) of all that may be opened; mpegts besides."""
MOST_PIXELS = 8192 * 4608
NO_PROGRESS = 2000
"""Packets without a frame after which a stream counts as endless rubbish."""


class Refused(Exception):
    """The file cannot be used; the text says why."""


def limit(cpu_seconds: int, memory_bytes: int) -> None:
    """Limits of this process, before anything is read."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


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


def open_media(file):
    """The file as PyAV opens it, by its content and never by its name."""
    import av

    av.logging.set_level(av.logging.PANIC)
    head = file.read(512)
    file.seek(0)
    options = {"protocol_whitelist": "", "probesize": "20000000", "analyzeduration": "20000000"}
    return av.open(file, format=container_of(head), options=options)


def video_stream(container):
    """The first video stream that is no cover picture, set up for decoding, or None."""
    for stream in container.streams.video:
        if stream.codec_context is None or getattr(stream.disposition, "name", "") == "attached_pic":
            continue
        if stream.codec_context.width * stream.codec_context.height > MOST_PIXELS:
            raise Refused(f"{stream.codec_context.width}x{stream.codec_context.height} pixels; at most {MOST_PIXELS} are taken")
        stream.thread_count = 1
        return stream
    return None


def start_of(stream) -> float:
    """Seconds at which a stream begins, on the container's clock."""
    return float((stream.start_time or 0) * stream.time_base)


def probe(container) -> dict:
    """What media.Media holds."""
    video, sound = video_stream(container), next(iter(container.streams.audio), None)
    if video is None and sound is None:
        raise Refused("it holds neither video nor sound")
    about = {"container": container.format.name, "has_audio": sound is not None}
    if video is None:
        seconds = _seconds(container, sound)
        nothing = {"width": 0, "height": 0, "fps": "0", "frames": 0, "offset": 0.0}
        return about | nothing | {"seconds": seconds, "codec": sound.codec_context.name}
    try:
        first = next(container.decode(video))
    except StopIteration:
        raise Refused("its video has not one frame") from None
    ratio = video.sample_aspect_ratio or (video.codec_context.sample_aspect_ratio if video.codec_context else None)
    width, height, _ = _upright(first, ratio)
    rate = video.average_rate or video.guessed_rate or video.base_rate
    return about | {
        "width": width,
        "height": height,
        "seconds": _seconds(container, video),
        "fps": str(rate or 0),
        "frames": video.frames,
        "codec": video.codec_context.name,
        "offset": start_of(sound) - start_of(video) if sound is not None else 0.0,
    }


def _upright(frame, ratio) -> tuple[int, int, int]:
    width, height = frame.width, frame.height
    if ratio:
        width = max(1, round(width * float(ratio)))
    turns = round(frame.rotation / 90) % 4
    return (height, width, turns) if turns % 2 else (width, height, turns)


def _seconds(container, stream) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return container.duration / 1e6 - max(start_of(stream) - (container.start_time or 0) / 1e6, 0.0)
    # Neither says it (webm as browsers record it): the packets do.
    end = 0.0
    for packet in container.demux(stream):
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return end - start_of(stream)


def shown_frames(container, stream, start: float):
    """(seconds from the stream's start, frame) in the order of showing, from the last frame at or before `start` on."""
    for earlier in (0.0, 2.0, 20.0, start):
        if start > 0:
            target = max(start - earlier, 0.0) + start_of(stream)
            container.seek(max(int(target / stream.time_base) - 1, 0), stream=stream, backward=True)
        frames = _decoded(container, stream)
        first = next(frames, None)
        # Some files have keyframes that are found too late: where pictures are shown in another order than they are stored.
        if first is None or first[0] <= start or earlier >= start:
            break
    held = first
    for seconds, frame in frames:
        if held is not None and seconds > start:
            yield held
            held = None
        if seconds > start:
            yield seconds, frame
        else:
            held = seconds, frame
    if held is not None:
        yield held


def _decoded(container, stream):
    """(seconds from the stream's start, frame) of all frames from where the container stands."""
    idle, began = 0, start_of(stream)
    for packet in container.demux(stream):
        idle += 1
        if idle > NO_PROGRESS:
            raise Refused(f"{NO_PROGRESS} packets without a picture")
        for frame in packet.decode():
            if frame.pts is not None:
                idle = 0
                yield float(frame.pts * stream.time_base) - began, frame


def write_frames(container, out, fps: float, start: float, count: int, longest: int) -> None:
    """`count` pictures as raw RGB: picture i is the one nearest to start + i/fps, and the last one stays."""
    stream = video_stream(container)
    if stream is None:
        raise Refused("it holds no video")
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    number, size, before = 0, None, None

    def write(picture) -> None:
        nonlocal size
        width, height, turns = _upright(picture, ratio)
        if width * height > MOST_PIXELS:
            raise Refused(f"{width}x{height} pixels; at most {MOST_PIXELS} are taken")
        if size is None:
            scale = min(1.0, longest / max(width, height)) if longest else 1.0
            size = tuple(max(2, 2 * round(side * scale / 2)) for side in (width, height))
            _say(out, {"width": size[0], "height": size[1]})
        lying = size[::-1] if turns % 2 else size
        array = picture.to_ndarray(format="rgb24", width=lying[0], height=lying[1], interpolation="AREA")
        if turns:
            import numpy

            array = numpy.ascontiguousarray(numpy.rot90(array, turns))
        out.write(array.tobytes())

    for seconds, frame in shown_frames(container, stream, start):
        # Written once the next one is known: whichever is nearer to a picture's time is shown.
        while before is not None and number < count and _nearer(before[0], seconds, start + number / fps):
            write(before[1])
            number += 1
        if number >= count:
            return
        before = seconds, frame
    end = None if before is None else before[0] + max(0.5 / fps, float((before[1].duration or 0) * stream.time_base))
    while before is not None and number < count and start + number / fps < end - 1e-6:
        write(before[1])
        number += 1
    if not number and before is None:
        raise Refused(f"there is no picture at {start:.2f} s or after")
    out.flush()


def _nearer(one: float, other: float, time: float) -> bool:
    return time - one <= other - time + 1e-6


def write_sound(container, out, rate: int, start: float, count: int) -> None:
    """`count` samples f32 of mono sound at `rate` from `start`, on the video's clock."""
    import av
    import numpy

    stream = next(iter(container.streams.audio), None)
    if stream is None:
        raise Refused("it holds no sound")
    video = video_stream(container)
    origin = start_of(video) if video is not None else start_of(stream)
    if start + origin - 1 > start_of(stream):
        container.seek(int((start + origin - 1) / stream.time_base), stream=stream, backward=True)
    resampler = av.AudioResampler("flt", "mono", rate)
    first = round(start * rate)
    written = 0
    _say(out, {"rate": rate})
    position, expected = None, 0

    def put(samples) -> None:
        """Writes what of these samples, which begin at `position`, lies in the stretch; silence before them."""
        nonlocal written, position
        ahead = position - (first + written)
        position += len(samples)
        if ahead > 0:
            silence = min(ahead, count - written)
            out.write(numpy.zeros(silence, numpy.float32).tobytes())
            written += silence
        samples = samples[max(-ahead, 0) :][: count - written]
        out.write(samples.tobytes())
        written += len(samples)

    for packet in container.demux(stream):
        for frame in packet.decode():
            if frame.pts is None:
                continue
            at = round((float(frame.pts * frame.time_base) - origin) * rate)
            # Where a stream leaves a hole, what follows keeps its time.
            if position is None or abs(at - expected) > rate // 10:
                position = at
            expected = at + round(frame.samples / frame.sample_rate * rate)
            for part in resampler.resample(frame):
                put(part.to_ndarray().ravel().astype(numpy.float32))
            if written >= count:
                out.flush()
                return
    if position is not None:
        for part in resampler.resample(None):
            put(part.to_ndarray().ravel().astype(numpy.float32))
    out.write(numpy.zeros(count - written, numpy.float32).tobytes())
    out.flush()


def _say(out, about: dict) -> None:
    out.write(json.dumps(about).encode() + b"\n")


def main(request: dict) -> None:
    """Does what media.py asks: {"what": "probe", "frames" or "sound", ...}; an error is a line {"error": ...}."""
    limit(request["cpu_seconds"], request["memory_bytes"])
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not be taken for pictures
    try:
        with os.fdopen(request["file"], "rb") as file:
            container = open_media(file)
            if request["what"] == "probe":
                _say(out, probe(container))
            elif request["what"] == "frames":
                write_frames(container, out, request["fps"], request["start"], request["count"], request["longest"])
            else:
                write_sound(container, out, request["rate"], request["start"], request["count"])
        out.flush()
    except BrokenPipeError:
        os._exit(0)
    except MemoryError:
        _say(out, {"error": "it takes more memory than is given to one file"})
        out.flush()
    except Exception as error:  # whatever PyAV and FFmpeg find wrong
        reason = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        try:
            _say(out, {"error": reason.replace("\n", " ")[:300]})
            out.flush()
        except OSError:
            os._exit(0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
