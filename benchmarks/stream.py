"""Streaming on the demo model: delays, real-time factor, memory and compilations over minutes of sound, and seams against the interior.

    python -m benchmarks.stream [--seconds 120] [--paced] [--json FILE]

Songs of the demo follow each other until there are enough seconds. Without --paced sound comes as quickly as it is taken, and the delay is
what a live source would see: a hop's sound, the look-ahead and the hop's computing time.
"""

import json
import time
from pathlib import Path

import numpy as np

import champ_jax as cj
from benchmarks.common import DEMO, PHOTO, REPOSITORY, compilations, make_parser, resident_mb
from champ_jax.audio.load import load_audio
from champ_jax.cli.live import Playing
from champ_jax.infer.stream import AHEAD_SECONDS, HOP, stream

BLOCK = 0.1


def blocks(seconds: float):
    """(rate, blocks of the demo's songs one after another)."""
    songs = [load_audio(path) for path in sorted((REPOSITORY / "assets/songs").glob("*.ogg"))]
    rate = songs[0][1]

    def run():
        given = 0
        while True:
            for song, own in songs:
                assert own == rate
                for start in range(0, len(song), round(BLOCK * rate)):
                    block = song[start : start + round(BLOCK * rate)]
                    given += len(block)
                    if given > seconds * rate:
                        return
                    yield block

    return rate, run()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="of sound")
    parser.add_argument("--paced", action="store_true", help="at the pace of the clock, giving up quality where it must")
    parser.add_argument("--hop", type=int, default=HOP, help="frames made at once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()
    compiled = compilations()
    pipe = cj.load_pipeline(DEMO)
    fps = pipe.settings.fps
    rate, sound = blocks(args.seconds)
    song = Playing(sound, rate, args.seconds, fast=not args.paced)
    began = time.perf_counter()
    frames = stream(pipe, PHOTO, song, rate=rate, hop=args.hop, keep_up=args.paced)
    warm = time.perf_counter() - began
    before = len(compiled)
    began = last = time.perf_counter()
    cpu = time.process_time()
    delays, hops, steps, memory, repeated, levels, image = [], [], [], {}, 0, {}, None
    for number, frame in enumerate(frames):
        now = time.perf_counter()
        if args.paced:
            delays.append(now - song.began - frame.seconds)
        if number % args.hop == 0:
            hops.append(now - last)
            last = now
        if image is not None:
            steps.append(np.abs(frame.image.astype(np.int16) - image).mean())
        image, repeated = frame.image, repeated + frame.repeated
        levels[str(tuple(frame.quality))] = levels.get(str(tuple(frame.quality)), 0) + 1
        if number % round(60 * fps) == 0:
            memory[f"{number / fps / 60:.0f} min"] = round(resident_mb(), 1)
    spent = time.perf_counter() - began
    cpu = time.process_time() - cpu
    memory["end"] = round(resident_mb(), 1)
    steps = np.array(steps)
    seam = np.arange(len(steps)) % args.hop == args.hop - 1
    compute = np.array(hops[2:])
    if not args.paced:
        delays = args.hop / fps + AHEAD_SECONDS + np.repeat(compute, args.hop) - np.tile(np.arange(args.hop), len(compute)) / fps
    found = {
        "frames": number + 1, "repeated": repeated, "warm_up_s": warm, "compiled_in_warm_up": before,
        "compiled_after": len(compiled) - before, "first_frame_delay_s": float(delays[0]), "steady_delay_s": float(np.median(delays[24:])),
        "steady_delay_p95_s": float(np.percentile(delays[24:], 95)), "hop_s": float(np.median(compute)),
        "hop_p95_s": float(np.percentile(compute, 95)), "real_time_factor": (spent - song.waited) * fps / (number + 1),
        "cpu_seconds_a_second": cpu * fps / (number + 1),
        "resident_mb": memory, "seam_over_interior": float(steps[seam].mean() / steps[~seam].mean()), "qualities": levels,
    }  # fmt: skip
    for name, value in found.items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
    print("compared with: a song's own pace is a real-time factor of 1; a video without seams has seam_over_interior 1")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
