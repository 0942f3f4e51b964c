"""What a distilled model gives up for its speed: quality of held-out people against steps, teacher and student from the same run.

    python -m benchmarks.distil --student runs/demo_d/weights
    python -m benchmarks.distil --student runs/demo_d_guidance/weights --scale 2

Trains configs/demo_d.py from the teacher into --workdir where no --student is given. The teacher goes by DDIM with classifier-free
guidance of --scale; the student, and once more the teacher, by the student's sampler without. "passes" are of the denoiser; "like
the teacher" is PSNR of its frames against those of the teacher's most steps, from the same noise (lcm adds noise of its own);
"motion" is the mean difference between neighbouring frames over the truth's: 1 moves as the truth does, more is grain that flickers.
"""

import dataclasses
from pathlib import Path

import numpy as np

from benchmarks.common import DANCERS, DEMO, make_parser, print_header, print_row
from champ_jax.config import load_config
from champ_jax.data.records import open_records
from champ_jax.evaluate import held_out
from champ_jax.infer.pipeline import load_pipeline
from champ_jax.metrics.image import mean_finite, psnr
from champ_jax.train.loop import train

FRAMES = 12  # one window of the demo
TEACHER_STEPS, STUDENT_STEPS = (50, 20, 8, 4, 2, 1), {"lcm": (4, 2, 1), "ddim": (20, 8, 4)}
SCORES = {"psnr_person": "PSNR person, dB", "ssim": "SSIM", "identity_top1": "identity"}


def motion(videos: list[np.ndarray], clips: list[held_out.HeldOutClip]) -> float:
    """Mean absolute difference between neighbouring frames u8 [F,H,W,3], over the truth's."""
    change = lambda frames: np.abs(np.diff(frames.astype(float), axis=0)).mean()  # noqa: E731
    return float(np.mean([change(video) / change(clip.truth.frames) for video, clip in zip(videos, clips, strict=True)]))


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--teacher", default=DEMO, help="its weights")
    parser.add_argument("--student", help="weights of stage D; trained here where there are none")
    parser.add_argument("--workdir", type=Path, default=Path("runs/demo_d"), help="where it is trained")
    parser.add_argument("--data", default=DANCERS, help="records with splits train and test")
    parser.add_argument("--scale", type=float, default=1.0, help="guidance of the teacher")
    parser.add_argument("--teacher-steps", type=int, nargs="+", default=TEACHER_STEPS, help="most first")
    args = parser.parse_args()
    if not args.student:
        words = {"init_from": args.teacher, "data.directory": args.data, "loss.teacher_scale": args.scale}
        args.student = train(load_config("demo_d", [f"--config.{name}={value}" for name, value in words.items()]), args.workdir)["weights"]
    teacher, student = load_pipeline(args.teacher), load_pipeline(args.student)
    records, size = open_records(args.data, "test"), teacher.settings.size
    clips = [held_out.read_clip(records[i], size, FRAMES) for i, info in enumerate(records.infos) if info.stored]
    runs = [("teacher", teacher, n, args.scale, "ddim") for n in args.teacher_steps]
    own = student.settings.sampler
    # The teacher as the student is sampled, which tells what training did from what the sampler does.
    runs += [(who, pipe, n, 1.0, own) for n in STUDENT_STEPS[own] for who, pipe in (("teacher", teacher), ("student", student))]
    outputs = {}
    for who, pipe, steps, scale, sampler in runs:
        pipe.settings = dataclasses.replace(pipe.settings, steps=steps, guidance_scale=scale, sampler=sampler)
        outputs[who, sampler, steps, steps * (1 if scale == 1 else 2)] = held_out.animate_clips(pipe, clips)
    results = held_out.score_outputs(outputs, clips, held_out.make_judge(args.data, size))
    print(
        f"{len(clips)} held-out people, {FRAMES} frames each; teacher {args.teacher} at guidance {args.scale:g}, student {args.student}\n"
    )
    print_header(("model", "sampler", "steps", "passes", *SCORES.values(), "motion", "like the teacher, dB"))
    most = next(iter(outputs.values()))
    for name, videos in outputs.items():
        rows = {row["name"]: row["value"] for row in results[name]["metrics"]}
        alike = "" if videos is most else f"{mean_finite(np.concatenate([psnr(a, b) for a, b in zip(most, videos)])):.2f}"
        scores = f"{rows['psnr_person']:.2f}", f"{rows['ssim']:.3f}", f"{rows['identity_top1']:.3f}"
        print_row(*name, *scores, f"{motion(videos, clips):.2f}", alike)


if __name__ == "__main__":
    main()
