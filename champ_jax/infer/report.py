"""A run's results as one HTML file that needs nothing beside itself: curves, table, pictures and videos."""

import base64
import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from champ_jax.errors import UserError

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 68em; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse } th, td { padding: .25em .9em; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
figure { margin: .8em 0 } figcaption { color: #666; font-size: .9em } img, video { max-width: 100% }
.row { display: flex; flex-wrap: wrap; gap: 1.5em } svg text { font: 11px system-ui, sans-serif; fill: #555 }
"""
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b")
_VIDEOS = {
    "dance.mp4": "the photo dances to the song",
    "dance.skeleton.mp4": "the skeleton that drives it, from the music",
    "animate.mp4": "photo, driving skeleton, truth, model",
}
_TABLE_COLUMNS = {
    "psnr": "PSNR, dB", "ssim": "SSIM", "psnr_person": "PSNR in the person, dB", "ssim_person": "SSIM in the person",
    "identity_top1": "right one of the people",
}  # fmt: skip


def write_report(directory: str | os.PathLike, path: str | os.PathLike | None = None) -> Path:
    """Writes `directory`/report.html (or `path`) from what lies in `directory`; returns where it was written.

    Read are metrics.json, comparison.png with comparison.json, the mp4 files of a quickstart, and metrics.jsonl of the
    directory and of its sub-folders, which is where training writes it. What is absent is left out.
    Raises UserError when there is nothing at all to report, or a file is broken.
    """
    directory = Path(directory)
    metrics = _read_json(directory / "metrics.json")
    logs = {log.parent.name: read_log(log) for log in sorted(directory.glob("*/metrics.jsonl"))}
    if (directory / "metrics.jsonl").is_file():
        logs[directory.name] = read_log(directory / "metrics.jsonl")
    if metrics is None and not logs:
        raise UserError(f"{directory}: nothing to report: it has neither metrics.json nor a metrics.jsonl of a training run")
    parts = _results(metrics) if metrics else []
    parts += _pictures(directory) + _videos(directory) + _curves(logs)
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>champ_jax report</title><style>{_STYLE}</style>"
    page += f"<h1>champ_jax: {html.escape(directory.resolve().name)}</h1>" + "".join(parts) + "</html>\n"
    path = Path(path) if path else directory / "report.html"
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(page)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error
    return path


def read_log(path: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """{group: {name: [(step, value), ...]}} of a metrics.jsonl; of repeated steps the last one counts."""
    groups: dict[str, dict[str, dict[int, float]]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            step, group = row.pop("step"), row.pop("group")
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{path}, line {number}: not a line of metrics: {error!r}") from error
        for name, value in row.items():
            groups.setdefault(group, {}).setdefault(name, {})[step] = float(value)
    return {g: {name: sorted(points.items()) for name, points in series.items()} for g, series in groups.items()}


def curves(title: str, series: Mapping[str, Sequence[tuple[float, float]]], size: tuple[int, int] = (430, 240)) -> str:
    """An SVG chart of named series of (x, y); finite values only; the vertical axis is logarithmic when all are positive."""
    series = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    series = {name: points for name, points in series.items() if points}
    if not series:
        return ""
    xs, ys = zip(*(point for points in series.values() for point in points), strict=True)
    log = min(ys) > 0
    scale = math.log10 if log else float
    (left, right, top, bottom), (width, height) = (52, 8, 22, 26), size
    low, high = scale(min(ys)), scale(max(ys))
    spread_x, spread_y = max(max(xs) - min(xs), 1e-9), max(high - low, 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - min(xs)) / spread_x * (width - left - right),
            height - bottom - (scale(y) - low) / spread_y * (height - top - bottom),
        )

    marks = [f'<text x="{left}" y="14">{html.escape(title)}</text>']
    for share in (0, 0.5, 1):
        y = low + share * (high - low)
        value = 10**y if log else y
        y_pixel = height - bottom - share * (height - top - bottom)
        marks.append(f'<line x1="{left}" x2="{width - right}" y1="{y_pixel:.1f}" y2="{y_pixel:.1f}" stroke="#eee"/>')
        marks.append(f'<text x="{left - 6}" y="{y_pixel + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        x = min(xs) + share * spread_x
        x_pixel = left + share * (width - left - right)
        marks.append(f'<text x="{x_pixel:.1f}" y="{height - 8}" text-anchor="middle">{x:.0f}</text>')
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        marks.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        marks.append(f'<text x="{width - right}" y="{14 + 13 * number}" text-anchor="end" style="fill:{colour}">{html.escape(name)}</text>')
    return f'<svg width="{width}" height="{height}" role="img">{"".join(marks)}</svg>'


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table; numbers with three decimals."""

    def cell(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else html.escape(str(value))

    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _results(metrics: dict[str, Any]) -> list[str]:
    """The tables of metrics.json."""
    parts = []
    if "animate" in metrics:
        rows = [[name.replace("_", " ")] + [v.get(c, "") for c in _TABLE_COLUMNS] for name, v in metrics["animate"].items()]
        parts.append("<h2>People, motion and camera that training has not seen</h2>")
        parts.append(table(["", *_TABLE_COLUMNS.values()], rows))
    if "dance" in metrics:
        parts.append("<h2>Dance to a song that training has not heard</h2>")
        parts.append(table(["", "value"], [[name.replace("_", " "), v] for name, v in metrics["dance"].items()]))
    if "stages" in metrics:
        parts.append("<h2>Validation loss of each stage</h2>")
        rows = [[stage, v["first"], v["last"]] for stage, v in metrics["stages"].items()]
        parts.append(table(["stage", "first", "last"], rows))
    if "seconds" in metrics:
        parts.append(f"<p>All of it took {metrics['seconds'] / 60:.1f} minutes.</p>")
    return parts


def _curves(logs: dict[str, dict]) -> list[str]:
    charts = []
    for name, groups in logs.items():
        losses = {group: series["loss"] for group, series in groups.items() if "loss" in series}
        charts.append(curves(f"{name}: loss", losses))
    charts = [chart for chart in charts if chart]
    return ["<h2>Training</h2><div class=row>", *charts, "</div>"] if charts else []


def _pictures(directory: Path) -> list[str]:
    if not (directory / "comparison.png").is_file():
        return []
    columns = _read_json(directory / "comparison.json") or {"columns": []}
    caption = " | ".join(html.escape(name) for name in columns["columns"])
    source = _data_url(directory / "comparison.png", "image/png")
    return [f"<h2>Frames</h2><figure><figcaption>{caption}</figcaption><img src='{source}' alt='frames'></figure>"]


def _videos(directory: Path) -> list[str]:
    parts = []
    for name, caption in _VIDEOS.items():
        if (directory / name).is_file():
            source = _data_url(directory / name, "video/mp4")
            parts.append(
                f"<figure><video controls loop width=384 src='{source}'></video><figcaption>{name}: {caption}</figcaption></figure>"
            )
    return ["<h2>Videos</h2><div class=row>", *parts, "</div>"] if parts else []


def _data_url(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _read_json(path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
