"""`champ-jax live`: the person of a photo dances to a song while it plays."""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator

from champ_jax.cli.sampling import add_model, add_photos, add_song, add_video, check_seconds, open_pipeline, read_size
from champ_jax.errors import INTERRUPTED

BLOCK_SECONDS = 0.1  # of sound at a time, about what a sound card gives
SETTLED_SECONDS = 2.0  # of the song, after which delays count as steady


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "live",
        help="photo + song, while it plays -> video",
        description="Plays a song at the pace of the clock and makes frames as its sound arrives: each knows a quarter of a second of what "
        "comes after it, and nothing more. Prints how late the frames were. Where the machine is too slow, steps, context and size are "
        "given up before frames are. Ctrl-C ends the video, which can be played.",
        epilog="example: champ-jax live --checkpoint assets/weights/demo --image photo.png --music song.wav --out live.mp4",
    )
    add_model(parser)
    add_photos(parser)
    add_song(parser)
    add_video(parser)
    parser.add_argument("--fast", action="store_true", help="as quickly as it goes, at full quality, instead of at the song's pace")
    parser.add_argument("--hop", type=int, default=4, help="frames made together: fewer come sooner and cost more (default: 4)")
    parser.add_argument("--context", type=int, default=8, help="finished frames that are looked back at (default: 8)")
    parser.add_argument("--ahead", type=float, default=0.25, help="seconds of sound that a pose waits for (default: 0.25)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Checks, compiles, plays, and prints the delays."""
    from champ_jax.audio.load import audio_blocks
    from champ_jax.infer.film import Film, check_place
    from champ_jax.infer.stream import stream

    check_seconds(args)
    size = read_size(args.size)
    check_place(args.out)
    blocks, rate = audio_blocks(args.music, BLOCK_SECONDS)
    song = Playing(blocks, rate, args.seconds or math.inf, args.fast)
    pipe = open_pipeline(args)
    began = time.perf_counter()
    frames = stream(
        pipe, args.image, song, rate=rate, pose=args.pose, photo_weights=args.photo_weights, size=size, seed=args.seed,
        steps=args.steps, guidance_scale=args.guidance_scale, hop=args.hop, context=args.context, ahead=args.ahead,
        keep_up=not args.fast,
    )  # fmt: skip
    warm_up = time.perf_counter() - began
    report, stopped = Report(song), False
    with Film(args.out, size or pipe.settings.size, pipe.settings.fps, rate=rate, keep=True) as film:
        song.heard_by = film.hear
        try:
            for frame in frames:
                report.add(frame)
                film.add(frame.image[None])
        except KeyboardInterrupt:
            stopped = True
        finally:
            frames.close()
    result = {"out": str(args.out), "warm_up_seconds": warm_up, **report.figures(pipe.settings.fps)}
    print(json.dumps(result) if args.json else in_words(result))
    if stopped:
        made = "the video holds what was made until then" if report.times else "there was no frame yet, and there is no video"
        print(f"stopped; {made}", file=sys.stderr)
    return INTERRUPTED if stopped else 0


class Playing:
    """A song's blocks, each given out when it has been played: an iterator."""

    def __init__(self, blocks: Iterator, rate: int, seconds: float, fast: bool):
        """blocks: f32 [S] each at `rate`; the first `seconds` are played, with `fast` at once."""
        self.blocks, self.rate, self.most, self.fast = blocks, rate, seconds * rate, fast
        self.heard_by: Callable = lambda block: None
        self.began: float | None = None
        self.samples, self.waited = 0, 0.0

    def __iter__(self) -> "Playing":
        return self

    def __next__(self):
        block = next(self.blocks)
        if self.samples + len(block) > self.most:
            block = block[: round(self.most) - self.samples]
        if not len(block):
            raise StopIteration
        now = time.perf_counter()
        self.began = now if self.began is None else self.began
        self.samples += len(block)
        wait = self.began + self.samples / self.rate - now
        if wait > 0 and not self.fast:
            time.sleep(wait)
            self.waited += wait
        self.heard_by(block)
        return block

    def close(self) -> None:
        """Closes the song's file."""
        self.blocks.close()


class Report:
    """How late each frame was: seconds between the moment it belongs to and the moment it was there."""

    def __init__(self, song: Playing):
        self.song, self.delays, self.repeated, self.times = song, [], 0, []
        self.qualities: dict[str, int] = {}

    def add(self, frame) -> None:
        """frame: a LiveFrame that has just come."""
        now = time.perf_counter() - self.song.began
        self.times.append(now)
        self.delays.append((frame.seconds, now - frame.seconds))
        self.repeated += frame.repeated
        steps, context, (height, width) = frame.quality
        name = f"{steps} steps, {context} frames back, {height}x{width}"
        self.qualities[name] = self.qualities.get(name, 0) + 1

    def figures(self, fps: float) -> dict:
        """Plain values; delays only of a song that was played at its own pace."""
        import numpy as np

        spent = max(self.times[-1] - self.song.waited, 0) if self.times else 0.0
        found = {
            "frames": len(self.times), "repeated": self.repeated, "fps": fps,
            "real_time_factor": spent * fps / max(len(self.times), 1), "qualities": self.qualities,
        }  # fmt: skip
        if self.times and not self.song.fast:
            steady = [delay for seconds, delay in self.delays if seconds >= SETTLED_SECONDS] or [delay for _, delay in self.delays]
            found["first_frame_delay"] = self.delays[0][1]
            found["steady_delay"], found["steady_delay_p95"] = (float(np.percentile(steady, share)) for share in (50, 95))
        return found


def in_words(result: dict) -> str:
    """The figures as lines."""
    lines = [
        f"{result['out']}: {result['frames']} frames at {result['fps']:g} a second, {result['repeated']} repeated",
        f"busy for {result['real_time_factor']:.2f} of the song's time, after {result['warm_up_seconds']:.1f} s of compiling",
    ]
    if "steady_delay" in result:
        lines.insert(1, f"first frame after {result['first_frame_delay']:.2f} s; then {result['steady_delay']:.2f} s behind the sound, "
                        f"95% of the frames at most {result['steady_delay_p95']:.2f} s")  # fmt: skip
    return "\n".join([*lines, *(f"{count} frames of {name}" for name, count in result["qualities"].items())])
