"""A run's results as one HTML file that needs nothing beside itself: curves, table, pictures and videos."""

import json
import os
from pathlib import Path
from typing import Any

from champ_jax.errors import UserError
from champ_jax.evaluate import page
from champ_jax.evaluate.catalogue import METRICS
from champ_jax.evaluate.cells import value_cell
from champ_jax.evaluate.chart import chart
from champ_jax.evaluate.files import RESULTS
from champ_jax.evaluate.report import REPORT
from champ_jax.evaluate.run_log import LOG, read_series
from champ_jax.files import write_text

_VIDEOS = {
    "dance.mp4": "the photo dances to the song",
    "dance.skeleton.mp4": "the skeleton that drives it, from the music",
    "animate.mp4": "photo, driving skeleton, truth, model",
}


def write_run_report(directory: str | os.PathLike, path: str | os.PathLike | None = None) -> Path:
    """Writes `directory`/report.html (or `path`) from what lies in `directory`; returns where it was written.

    Read are metrics.json, comparison.png with comparison.json, the mp4 files of a quickstart, and metrics.jsonl of the
    directory and of its sub-folders, which is where training writes it. What is absent is left out.
    Raises UserError when there is nothing at all to report, or a file is broken.
    """
    directory = Path(directory)
    metrics = _read_json(directory / "metrics.json")
    logs = {log.parent.name: read_series(log.parent) for log in sorted(directory.glob(f"*/{LOG}"))}
    if (directory / LOG).is_file():
        logs[directory.name] = read_series(directory)
    if metrics is None and not logs:
        if (directory / RESULTS).is_file():
            raise UserError(
                f"{directory}: it is an evaluation, whose {REPORT} champ-jax evaluate wrote; champ-jax compare puts several side by side"
            )
        raise UserError(f"{directory}: nothing to report: it has neither metrics.json nor a {LOG} of a training run")
    sections = _results(metrics) if metrics else []
    sections += [
        page.section("Frames", _picture(directory)),
        page.section("Videos", _videos(directory)),
        page.section("Training", _curves(logs)),
    ]
    took = f"all of it took {metrics['seconds'] / 60:.1f} minutes" if metrics and "seconds" in metrics else ""
    path = Path(path) if path else directory / REPORT
    write_text(path, page.page(f"champ_jax: {directory.resolve().name}", took, sections))
    return path


def _results(metrics: dict[str, Any]) -> list[str]:
    """The tables of metrics.json: each system a column, each metric a row."""
    sections = []
    if systems := metrics.get("animate"):
        names = [name for name in METRICS if any(name in values for values in systems.values())]
        rows = [
            [METRICS[name].title, *(_cell(name, values.get(name)) for values in systems.values()), METRICS[name].better] for name in names
        ]
        header = ["metric", *(name.replace("_", " ") for name in systems), "better"]
        sections.append(page.section("People, motion and camera that training has not seen", page.table(header, rows)))
    if dance := metrics.get("dance"):
        rows = [[METRICS[name].title, _cell(name, dance[name]), METRICS[name].better] for name in METRICS if name in dance]
        sections.append(page.section("Dance to a song that training has not heard", page.table(["metric", "value", "better"], rows)))
    if stages := metrics.get("stages"):
        rows = [[stage, values["first"], values["last"]] for stage, values in stages.items()]
        sections.append(page.section("Validation loss of each stage", page.table(["stage", "first", "last"], rows)))
    return sections


def _cell(name: str, value: float | None) -> page.Cell:
    return "" if value is None else value_cell(name, float(value))


def _curves(logs: dict[str, dict]) -> str:
    losses = {name: {group: s["loss"] for group, s in groups.items() if "loss" in s} for name, groups in logs.items()}
    return page.row([drawn for name, series in losses.items() if (drawn := chart(f"{name}: loss", series))])


def _picture(directory: Path) -> str:
    if not (directory / "comparison.png").is_file():
        return ""
    columns = _read_json(directory / "comparison.json") or {"columns": []}
    return page.picture((directory / "comparison.png").read_bytes(), " | ".join(columns["columns"]))


def _videos(directory: Path) -> str:
    found = [(directory / name, caption) for name, caption in _VIDEOS.items() if (directory / name).is_file()]
    return page.row([page.video(path.read_bytes(), f"{path.name}: {caption}") for path, caption in found])


def _read_json(path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
