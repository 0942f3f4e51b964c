"""`champ-jax quickstart`: trains all three stages, dances, animates people it has never seen, and scores it all.

Every part leaves its result in the folder, so the same command goes on where it was stopped.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from champ_jax.errors import RESUMABLE

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = ("weights", "dancers", "songs")  # of the assets
NEEDED_MB = 1000
DANCE_SECONDS = 8.0
TEST_FRAMES = 24  # of each test clip
PREVIEW_FRAMES = 2  # of each test clip, in comparison.png


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "quickstart",
        help="train, dance, animate and score the committed demo",
        description="Trains stages A, B and C on the committed people from the committed demo weights, dances to a song and "
        "animates people that training has not seen, and writes metrics.json and report.html: about 10 minutes on 2 cores.",
        epilog="example: champ-jax quickstart --out runs/quickstart",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="where results go (default: %(default)s)")
    parser.add_argument("--assets", type=Path, default=REPOSITORY / "assets", help="the demo's files (default: the repository's)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Does every part that is not done yet, and says where the results are."""
    check_place(args.out)
    check_assets(args.assets)
    try:
        metrics = run_parts(args.out, args.assets)
    except KeyboardInterrupt:
        print(f"interrupted: the same command goes on from {args.out}", file=sys.stderr)
        return RESUMABLE
    from champ_jax.evaluate.run_report import write_run_report

    write_json(args.out / "metrics.json", metrics)
    report = write_run_report(args.out)
    print_summary(metrics, args.out, report)
    return 0


def run_parts(out: Path, assets: Path) -> dict[str, Any]:
    """Every part in its order; what metrics.json holds."""
    part = Parts(out, fingerprint(assets))
    weights, stages = assets / "weights" / "demo", {}
    for stage in "ABC":
        stages[stage] = part(f"stage {stage}", train_stage, stage, weights, assets, out)
        weights = Path(stages[stage]["weights"])
    part("model", copy_model, weights, out / "model")
    dance = part("dance", dance_held_out, assets, out)
    animate = part("animate", animate_held_out, assets, out)
    return {
        "animate": animate["scores"],
        "dance": dance["scores"],
        "stages": {stage: {end: result[end] for end in ("first", "last")} for stage, result in stages.items()},
        "seconds": round(part.seconds, 1),
    }


class Parts:
    """Runs named parts once: a part's result is kept in `directory`/parts.json and returned when asked for again.

    key: what all results depend on; UserError when the folder holds those of another one.
    """

    def __init__(self, directory: Path, key: str):
        from champ_jax.errors import UserError

        self.path, self.key = directory / "parts.json", key
        saved = json.loads(self.path.read_text()) if self.path.is_file() else {"key": key, "parts": {}}
        if saved.get("key") != key:
            raise UserError(f"{directory} holds results of other weights, data, settings or code; give another --out or remove it")
        self.done: dict[str, Any] = saved["parts"]

    def __call__(self, name: str, work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        """work(*arguments), a dict that JSON can hold, with the `part_seconds` it took; or what it gave before."""
        if name in self.done:
            print(f"{name}: done before", flush=True)
            return self.done[name]
        print(f"{name} ...", flush=True)
        start = time.monotonic()
        result = work(*arguments)
        self.done[name] = {**result, "part_seconds": time.monotonic() - start}
        write_json(self.path, {"key": self.key, "parts": self.done})
        print(f"{name}: {self.done[name]['part_seconds']:.0f} s", flush=True)
        return self.done[name]

    @property
    def seconds(self) -> float:
        """Time that all parts took together."""
        return sum(result["part_seconds"] for result in self.done.values())


def fingerprint(assets: Path) -> str:
    """Names the demo's weights, data, settings and code: their contents' digest."""
    digest = hashlib.sha256((REPOSITORY / "configs" / "quickstart.py").read_bytes())
    for root, pattern in ((REPOSITORY / "champ_jax", "**/*.py"), (assets, "photo.*"), *((assets / name, "**/*") for name in FOLDERS)):
        for path in sorted(p for p in root.glob(pattern) if p.is_file()):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def check_place(out: Path) -> None:
    """Makes the folder; raises UserError when it cannot be written or the disk is nearly full."""
    from champ_jax.errors import UserError

    try:
        out.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out).free / 1e6
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error}; give another --out") from error
    if not os.access(out, os.W_OK):
        raise UserError(f"cannot write to {out}: permission denied; give another --out")
    if free < NEEDED_MB:
        raise UserError(f"{out}: {free:.0f} MB are free on this disk, the quickstart needs {NEEDED_MB}; make room or give another --out")


def check_assets(assets: Path) -> None:
    """Raises UserError when a part of the committed demo is missing."""
    from champ_jax.errors import UserError

    needed = ("dancers", "songs", "photo.png", "weights/demo", "weights/no_reference")
    missing = [name for name in needed if not (assets / name).exists()]
    if missing:
        raise UserError(f"{assets} lacks {', '.join(missing)}: run from a complete clone of the repository, or give --assets")


def train_stage(stage: str, weights: Path, assets: Path, out: Path) -> dict[str, Any]:
    """Trains one stage from `weights`; validation losses at both ends and where the new weights are."""
    from champ_jax.config import load_config
    from champ_jax.train.loop import train

    overrides = [f"--config.init_from={weights}", f"--config.data.directory={assets / 'dancers'}"]
    return train(load_config(f"quickstart:{stage}", overrides), out / stage)


def copy_model(weights: Path, model: Path) -> dict[str, Any]:
    """The last stage's weights under a name that is easy to find."""
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(weights, model)
    return {}


def dance_held_out(assets: Path, out: Path) -> dict[str, Any]:
    """The committed photo dances to the song that training has not heard: dance.mp4 and its scores."""
    from champ_jax.cli.progress import progress
    from champ_jax.data.records import open_records
    from champ_jax.evaluate.held_out import held_out_song, score_dance
    from champ_jax.infer.pipeline import load_pipeline

    song, beats = held_out_song(assets / "songs")
    with progress("dance") as on_progress:
        pipe = load_pipeline(out / "model")
        dance = pipe.render_dance(assets / "photo.png", song, seconds=DANCE_SECONDS, on_progress=on_progress)
        dance.save(out / "dance.mp4", audio=song)
    return {"scores": score_dance(dance.metadata, beats, open_records(assets / "dancers", "train+motion"))}


def animate_held_out(assets: Path, out: Path) -> dict[str, Any]:
    """People, motion and cameras of the test split, by the model and by one that never saw a photo: animate.mp4, scores."""
    import numpy as np
    from PIL import Image

    from champ_jax.cli.progress import progress
    from champ_jax.data.records import open_records
    from champ_jax.evaluate import held_out
    from champ_jax.evaluate.files import write_results
    from champ_jax.evaluate.report import write_report
    from champ_jax.infer.pipeline import load_pipeline
    from champ_jax.infer.video import write_video

    records = open_records(assets / "dancers", "test")
    pipes = {"model": load_pipeline(out / "model"), "no_reference": load_pipeline(assets / "weights" / "no_reference")}
    pipes["no_reference"].settings = pipes["model"].settings
    size, outputs = pipes["model"].settings.size, {}
    chosen = [number for number, info in enumerate(records.infos) if info.stored]
    clips = [held_out.read_clip(records[number], size, TEST_FRAMES) for number in chosen]
    for name, pipe in pipes.items():
        with progress(f"animate, {name}") as on_progress:
            outputs[name] = held_out.animate_clips(pipe, clips, on_progress=on_progress)
    outputs["copy_reference"] = photos = held_out.copies(clips)
    people = held_out.make_judge(assets / "dancers", size)
    results = held_out.score_outputs(outputs, clips, people)
    for name, result in results.items():
        write_results(out / "evaluation" / name, result)
    judged = held_out.judged(outputs["model"], clips, people)
    write_report(out / "evaluation" / "model", results["model"], judged, results["no_reference"], "model")
    columns = {
        "photo": photos,
        "skeleton": [clip.guidance["dwpose"] for clip in clips],
        "truth": [clip.truth.frames for clip in clips],
        **{name: outputs[name] for name in pipes},
    }
    Image.fromarray(held_out.contact_sheet(list(columns.values()), PREVIEW_FRAMES)).save(out / "comparison.png")
    write_json(out / "comparison.json", {"columns": list(columns)})
    shown = ("photo", "skeleton", "truth", "model")
    sides = [np.concatenate([columns[name][i] for name in shown], 2) for i in range(len(clips))]
    write_video(out / "animate.mp4", np.concatenate(sides), clips[0].fps)
    means = {name: {row["name"]: row["value"] for row in result["metrics"] if row["n"]} for name, result in results.items()}
    return {"scores": means}


def print_summary(metrics: dict[str, Any], out: Path, report: Path) -> None:
    """The table of scores, and where everything is."""
    print(f"{'':16}{'PSNR':>8}{'SSIM':>8}{'person PSNR':>13}{'person SSIM':>13}{'identity':>10}")
    for name, row in metrics["animate"].items():
        print(
            f"{name:16}{row['psnr']:8.2f}{row['ssim']:8.3f}{row['psnr_person']:13.2f}{row['ssim_person']:13.3f}{row['identity_top1']:10.2f}"
        )
    dance = metrics["dance"]
    print(f"dance: energy {dance['energy_ratio']:.2f} of the data's, beat alignment above chance {dance['beat_corrected']:.2f}")
    print(f"{metrics['seconds'] / 60:.1f} minutes. Videos, weights and metrics: {out}; open {report}")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes JSON, whole or not at all."""
    from champ_jax.files import write_text

    write_text(path, json.dumps(values, indent=2) + "\n")
