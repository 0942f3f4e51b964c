"""What a long video costs: peak memory, compilations, time, and whether windows show.

python -m benchmarks.long_clip [--frames 48 1000] [--seconds 600] [--steps 1]

Each length runs in a process of its own, from a song as long as that to frames in a file, and prints the peak of its memory and the
program's device memory; the last also how often something was compiled after the first frames, and how much more neighbouring
frames differ where windows begin or end than elsewhere. --seconds makes a video of so much song at the end and prints how long that took.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.common import DEMO, PHOTO, SONG, compilations, in_its_own_process, make_parser, peak_mb
from champ_jax.audio.load import load_audio
from champ_jax.infer.wavefront import Plan, make_plan


def main() -> None:
    """Runs each length and compares."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", default=DEMO, help="the model that dances")
    parser.add_argument("--frames", type=int, nargs="+", default=[48, 1000], help="lengths")
    parser.add_argument("--seconds", type=float, help="of a song that is danced to its end, too")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the checkpoint's)")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        return one(args.checkpoint, args.one, args.steps)
    rows = []
    lengths = [*args.frames, *([round(12 * args.seconds)] if args.seconds else [])]
    for frames in lengths:
        steps = () if args.steps is None else ("--steps", args.steps)
        found = json.loads(in_its_own_process("long_clip", "--one", frames, "--checkpoint", args.checkpoint, *steps))
        rows.append(found)
        more = {name: found[name] / rows[0][name] - 1 for name in ("peak_mb", "device_mb")}
        print(
            f"{frames:6} frames, {found['seconds']:7.1f} s, first after {found['first']:5.1f} s, "
            f"host peak {found['peak_mb']:7.1f} MB {more['peak_mb']:+6.1%}, device {found['device_mb']:7.1f} MB {more['device_mb']:+6.1%}, "
            f"{found['compiled']} compilations after the first frames, boundary to interior {found['ratio']:.3f}",
            flush=True,
        )


def one(checkpoint: str, frames: int, steps: int | None) -> None:
    """Dances so many frames and prints an object about it."""
    import jax

    from champ_jax.infer import sample
    from champ_jax.infer.pipeline import load_pipeline

    compiled = compilations()
    pipe = load_pipeline(checkpoint)
    wave, rate = load_audio(SONG)
    seconds = frames / pipe.settings.fps
    described, run_orders = {}, sample.run_orders

    def described_run(*arguments):
        if not described:
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), arguments[2:])
            described["program"] = run_orders.lower(*arguments[:2], *shapes)
        return run_orders(*arguments)

    sample.run_orders = described_run
    with tempfile.TemporaryDirectory() as folder:
        song = Path(folder) / "song.wav"
        soundfile.write(song, np.tile(wave, int(np.ceil(seconds * rate / len(wave))))[: round(seconds * rate)], rate)
        dance = pipe.render_dance(PHOTO, song, steps=steps)
        changes, last, warm = [], [], []
        start = time.perf_counter()

        def watched(frames):
            for chunk in frames:
                warm.append(len(compiled))
                shown = np.concatenate([*last, chunk]).astype(np.float32)
                changes.extend(np.abs(shown[1:] - shown[:-1]).mean(axis=(1, 2, 3)))
                last[:] = [chunk[-1:]]
                yield chunk

        dance._frames = watched(dance._frames)
        dance.save(Path(folder) / "dance.mp4", audio=song)
    plan = make_plan(frames, dance.metadata["steps"], pipe.settings.window, pipe.settings.overlap)
    # Compiling once more to learn of the program's memory must not count as the host's.
    peak, later = peak_mb(), len(compiled) - warm[0]
    seconds = time.perf_counter() - start
    memory = described["program"].compile().memory_analysis()
    device = (memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes - memory.alias_size_in_bytes) / 1e6
    found = {
        "seconds": seconds, "first": dance.metadata["first_frame_seconds"], "device_mb": device,
        "peak_mb": peak, "compiled": later,
        "ratio": boundary_ratio(np.asarray(changes), plan),
    }  # fmt: skip
    print(json.dumps(found))


def boundary_ratio(change: np.ndarray, plan: Plan) -> float:
    """Mean change [F-1] from frame to frame where a window of the last step begins or ends, over that elsewhere."""
    edges = np.zeros(plan.count + 1, bool)
    for each in plan.frames[-1]:
        edges[[each[0], each[-1] + 1]] = True
    edges = edges[1 : len(change) + 1]
    return float(change[edges].mean() / change[~edges].mean())


if __name__ == "__main__":
    main()
