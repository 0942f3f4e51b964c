"""Variants of a model, trained alike, side by side: scores of held-out people, curves, and the page that shows them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from champ_jax.data.records import open_records
from champ_jax.errors import UserError
from champ_jax.evaluate import held_out
from champ_jax.evaluate.catalogue import METRICS
from champ_jax.evaluate.chart import chart
from champ_jax.evaluate.files import write_results
from champ_jax.evaluate.run_log import read_series
from champ_jax.evaluate.who import IdentityJudge
from champ_jax.files import atomic_file, write_text
from champ_jax.infer.pipeline import load_pipeline

COLUMNS = ("psnr", "psnr_person", "ssim", "ssim_person", "warp_error", "flicker", "style_colours", "identity_top1")
SHOWN_CLIPS, SHOWN_FRAMES = 4, 2
Runs = Mapping[tuple[str, int], Mapping[str, Any]]
"""(variant, seed) to what `champ-jax ablate` found of it."""


class Test(NamedTuple):
    """The held-out clips that every variant animates, and who tells their people apart."""

    clips: list[held_out.HeldOutClip]
    people: IdentityJudge


def read_test(config) -> Test:
    """The first clips of the split `test`, with photos from after the frames that are animated.

    Raises UserError for too few clips or frames.
    """
    records = open_records(config.directory, "test")
    if len(records) < config.test.clips:
        raise UserError(f"{config.directory}, split test: {len(records)} clips, and config.test.clips asks for {config.test.clips}")
    size = (config.same.B.data.size,) * 2
    clips = []
    for number in range(config.test.clips):
        photos = held_out.photos_after(records[number], config.test.frames, config.test.references)
        clips.append(held_out.read_clip(records[number], size, config.test.frames, photos=photos))
    photos, maps = (np.stack([getattr(clip.truth, name) for clip in clips]) for name in ("photo", "photo_map"))
    return Test(clips, IdentityJudge(photos, maps, [clip.truth.identity for clip in clips]))


def score(weights: str, test: Test, photos: int, out: Path) -> dict[str, float]:
    """Animates the test's clips with so many photos of each person; {metric: mean over clips}, of the truth as "real METRIC".

    The evaluation is left in `out`, for `champ-jax compare`, with the frames.
    """
    outputs = held_out.animate_clips(load_pipeline(weights), test.clips, photos=photos)
    results = held_out.score_outputs({"model": outputs}, test.clips, test.people)["model"]
    write_results(out, results)
    with atomic_file(out / "frames.npz") as file:
        np.savez_compressed(file, frames=np.stack(outputs))
    rows = [row for row in results["metrics"] if row["n"]]
    return {row["name"]: row["value"] for row in rows} | {f"real {row['name']}": row["real"] for row in rows if row["real"] is not None}


def read_run(workdir: Path) -> dict[str, Any]:
    """Validation losses [[step, loss], ...] of a training run, the seconds of a step in its quietest logged stretch."""
    log = read_series(workdir)
    times = {
        step: log["seconds"]["training"][i][1] + log["seconds"]["input"][i][1] for i, (step, _) in enumerate(log["seconds"]["compile"])
    }
    clean = [step for step, seconds in log["seconds"]["compile"] if not seconds]
    before = dict(zip(list(times)[1:], times))
    fastest = min((times[step] / (step - before[step]) for step in clean if step in before), default=float("nan"))
    return {"losses": log["validation"]["loss"], "step_seconds": fastest}


def steps_to(loss: float, losses: list[tuple[int, float]]) -> float:
    """Steps of training until the validation loss is down at `loss`, between two measurements by a straight line; inf if it never is.

    losses: [[step, loss], ...] of a run.
    """
    for (step, value), (later, lower) in zip(losses, losses[1:]):
        if lower <= loss:
            return step + (value - loss) / (value - lower) * (later - step) if value > loss else step
    return float("inf")


def spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds; inf where a value is, nan for the deviation of a single one."""
    if not np.isfinite(values).all():
        return float("inf"), float("nan")
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def of_variants(config, runs: Runs) -> dict[str, dict[str, tuple[float, float]]]:
    """{variant: {column: (mean, standard deviation)}}: metrics, "seconds" of stage B's step, and "time", the seconds that stage B
    takes to the loss at which the first variant ended, over the seconds that one took to it; inf where a seed never gets there.

    All seeds of a variant run the same program, so its step takes what it took where the machine did least besides.
    """
    first = config.variants[0][0]
    stages = {run: found["stages"]["B"] for run, found in runs.items()}
    step = {name: min(stages[name, seed]["step_seconds"] for seed in config.seeds) for name, _ in config.variants}
    table = {}
    for name, _ in config.variants:
        times = []
        for seed in config.seeds:
            olds = stages[first, seed]["losses"]
            mine, theirs = (steps_to(olds[-1][1], losses) for losses in (stages[name, seed]["losses"], olds))
            times.append(mine * step[name] / (theirs * step[first]))
        rows = {column: [runs[name, seed]["scores"][column] for seed in config.seeds] for column in COLUMNS} | {"time": times}
        table[name] = {column: spread(values) for column, values in rows.items()} | {"seconds": (step[name], float("nan"))}
    return table


def against_first(config, runs: Runs) -> list[tuple[str, str, str, str]]:
    """The second variant against the first: rows (figure, the change from which on it counts here, measured, whether it is reached)."""
    table = of_variants(config, runs)
    old, new = (table[name] for name, _ in config.variants[:2])
    seed = config.seeds[0]
    real = {name: runs[config.variants[0][0], seed]["scores"][f"real {name}"] for name in ("warp_error", "flicker")}
    change = lambda name: new[name][0] / old[name][0] - 1  # noqa: E731
    off = {name: 1 - abs(new[name][0] - real[name]) / abs(old[name][0] - real[name]) for name in real}
    rows = [
        *((METRICS[name].title, "+10 %", f"{change(name):+.1%}") for name in ("psnr", "psnr_person", "ssim", "ssim_person")),
        *((f"{METRICS[name].title}, distance to the truth's", "-20 %", f"{-off[name]:+.1%}") for name in real),
        (
            f"Training time to the loss at which {config.variants[0][0]} ends",
            "-15 %",
            f"{new['time'][0] - 1:+.1%}".replace("+inf%", "never"),
        ),
    ]
    return [(*row, "yes" if _met(row) else "no") for row in rows]


def _met(row: tuple[str, str, str]) -> bool:
    if row[2] == "never":
        return False
    goal, got = (float(text.split("%")[0]) for text in row[1:3])
    return got >= goal if goal > 0 else got <= goal


def write_page(out: Path, config, runs: Runs, cases: list[Mapping[str, Any]], test: Test) -> Path:
    """ablation.md with frames.png and losses.svg beside it."""
    table = of_variants(config, runs)
    real = runs[config.variants[0][0], config.seeds[0]]["scores"]
    headers = [f"{METRICS[name].title}{', ' + METRICS[name].unit if METRICS[name].unit else ''}" for name in COLUMNS]
    lines = ["| variant | " + " | ".join(headers) + " | time to the old loss | seconds a step |", "|---" * (len(COLUMNS) + 3) + "|"]
    for name, row in table.items():
        cells = [_cell(row[column], METRICS[column].decimals) for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join([*cells, _cell(row["time"], 2), _cell(row["seconds"], 3)]) + " |")
    truth = [f"{real[f'real {name}']:.{METRICS[name].decimals}f}" if f"real {name}" in real else "" for name in COLUMNS]
    lines.append("| (the truth) | " + " | ".join([*truth, "", ""]) + " |")
    gains = ["| figure | goal | measured | reached |", "|---|---|---|---|"]
    gains += [f"| {' | '.join(row)} |" for row in against_first(config, runs)]
    refused = f"{sum(case['refused'] for case in cases)} of {len(cases)} are refused by name before any training or sampling."
    bad = [refused, "", "| bad input | answer |", "|---|---|", *(f"| {case['name']} | {case['answer']} |" for case in cases)]
    seeds = f"{len(config.seeds)} seeds, {config.test.clips} people x {config.test.frames} frames that training has not seen"
    sections = [
        f"## All variants\n\nMean and standard deviation over {seeds}.\n\n" + "\n".join(lines),
        f"## {config.variants[1][0]} against {config.variants[0][0]}\n\n" + "\n".join(gains),
        "## Losses\n\n![validation losses](losses.svg)",
        "## Frames\n\n" + f"{', '.join(['photo', 'skeleton', 'truth', *_shown(config)])}; seed {config.seeds[0]}.\n\n![frames](frames.png)",
        "## Bad inputs\n\n" + "\n".join(bad),
    ]
    write_text(out / "ablation.md", "# What each choice is worth\n\n" + "\n\n".join(sections) + "\n")
    _write_losses(out / "losses.svg", config, runs)
    _write_frames(out, config, runs, test)
    return out / "ablation.md"


def _cell(value: tuple[float, float], decimals: int) -> str:
    mean, deviation = value
    if not np.isfinite(mean):
        return "never"
    return f"{mean:.{decimals}f}" + (f" ± {deviation:.{decimals}f}" if np.isfinite(deviation) else "")


def _shown(config) -> list[str]:
    return [name for name, _ in config.variants[:7]]


def _write_losses(path: Path, config, runs: Runs) -> None:
    seed = config.seeds[0]
    series = {name: runs[name, seed]["stages"]["B"]["losses"][1:] for name in _shown(config) if "C" not in runs[name, seed]["stages"]}
    style = "<style>text{font:11px sans-serif}.axis{stroke:#ccc}</style>"
    drawn = chart(f"validation loss of stage B, seed {seed}, by steps", series, size=(640, 320))
    write_text(path, drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", ">" + style, 1))


def _write_frames(out: Path, config, runs: Runs, test: Test) -> None:
    clips = test.clips[:SHOWN_CLIPS]
    columns = [
        [np.broadcast_to(clip.truth.photo, clip.truth.frames.shape) for clip in clips],
        [clip.guidance["dwpose"] for clip in clips],
        [clip.truth.frames for clip in clips],
    ]
    for name in _shown(config):
        with np.load(out / runs[name, config.seeds[0]]["evaluation"] / "frames.npz") as file:
            columns.append(list(file["frames"][: len(clips)]))
    Image.fromarray(held_out.contact_sheet(columns, SHOWN_FRAMES)).save(out / "frames.png")
