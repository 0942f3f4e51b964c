"""Quality against steps: samplers, deeper features kept between steps, and windows that see the first frame.

python -m benchmarks.samplers [--checkpoint assets/weights/demo] [--clips 4] [--guidance-scale 1]

Animates held-out clips of assets/dancers and prints, for each way of sampling, PSNR to the truth, over all pixels and over the
person's, PSNR to DDIM at 50 steps, how steady the video is (mean change from frame to frame over the truth's), and seconds a
second of video, compiled before, beside those of DDIM at 50 steps in the same run.
"""

import time

import numpy as np

from benchmarks.common import DANCERS, DEMO, make_parser, psnr
from champ_jax.data.records import open_records
from champ_jax.evaluate.held_out import read_clip
from champ_jax.infer.pipeline import load_pipeline

ROWS = (
    ("ddim, 50 steps", {"sampler": "ddim", "steps": 50}),
    *((f"{sampler}, {steps} steps", {"sampler": sampler, "steps": steps})
      for sampler in ("ddim", "dpm++", "unipc", "euler") for steps in (4, 8, 20)),
    *((f"ddim, {steps} step{'s' * (steps > 1)}", {"sampler": "ddim", "steps": steps}) for steps in (1, 2)),
    *((f"ddim, 20 steps, deeper levels every {n}", {"sampler": "ddim", "steps": 20, "deep_every": n}) for n in (2, 3, 5)),
    ("ddim, 20 steps, anchored", {"sampler": "ddim", "steps": 20, "anchor": True}),
)  # fmt: skip


def main() -> None:
    """Prints the table, row by row."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", default=DEMO, help="the model that animates")
    parser.add_argument("--clips", type=int, default=4, help="held-out clips")
    parser.add_argument("--frames", type=int, default=16, help="of each")
    parser.add_argument("--guidance-scale", type=float, default=1.0, help="of all ways")
    args = parser.parse_args()
    pipe = load_pipeline(args.checkpoint)
    records = open_records(DANCERS, "test")
    chosen = [number for number, info in enumerate(records.infos) if info.stored][: args.clips]
    clips = [read_clip(records[number], pipe.settings.size, args.frames) for number in chosen]
    print(f"{args.checkpoint}, {len(clips)} clips of {args.frames} frames, guidance scale {args.guidance_scale:g}")
    print(f"{'':42}{'PSNR':>7}{'person':>8}{'to first row':>14}{'change':>8}{'s a second':>12}")
    first = None
    for name, sampling in ROWS:
        found, seconds = [], 0.0
        for clip in clips:
            guidance = {kind: clip.guidance[kind] for kind in pipe.kinds if kind in clip.guidance}
            make = lambda: pipe.animate(  # noqa: E731
                clip.truth.photo, guidance, pose=clip.poses[0], guidance_scale=args.guidance_scale, **sampling  # noqa: B023
            )  # fmt: skip
            if not found:
                make()
            start = time.perf_counter()
            found.append(make().frames)
            seconds += time.perf_counter() - start
        shown, truth = np.concatenate(found), np.concatenate([clip.truth.frames for clip in clips])
        person = np.concatenate([clip.truth.mask for clip in clips])
        first = shown if first is None else first
        change = [sum(np.abs(np.diff(x.astype(float), axis=0)).mean() for x in each) for each in (found, [c.truth.frames for c in clips])]
        against = "" if first is shown else f"{psnr(shown, first):.1f}"
        print(
            f"{name:42}{psnr(shown, truth):7.2f}{psnr(shown, truth, person):8.2f}{against:>14}{change[0] / change[1]:8.2f}"
            f"{seconds / (len(shown) / pipe.settings.fps):12.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
