"""What a training run has logged: the lines of its metrics.jsonl, or the series in them."""

import json
from pathlib import Path
from typing import Any

from champ_jax.errors import UserError

LOG, SKIPPED = "metrics.jsonl", "skipped.jsonl"


def read_lines(path: Path, fields: tuple[str, ...] = ("step", "group")) -> list[dict[str, Any]]:
    """Every line of a run's metrics.jsonl, {"step", "group", name: value}, or of another file whose lines have `fields`.

    A last line that a kill cut off is left out. Raises UserError when there is no such file, or a line is broken or lacks a field.
    """
    lines = []
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise UserError(f"{path.parent}: no {path.name} of a training run can be read there: {error}") from error
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        try:
            row = json.loads(line)
            for name in fields:
                row[name]
        except (ValueError, KeyError, TypeError) as error:
            if not line.endswith("\n"):
                break
            raise UserError(f"{path}, line {number}: broken ({error!r}); mend that line, or remove it") from error
        lines.append(row)
    return lines


def read_series(directory: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """{group: {name: [(step, value), ...]}} of a run's metrics.jsonl; of repeated steps the last one counts."""
    groups: dict[str, dict[str, dict[int, float]]] = {}
    for line in read_lines(directory / LOG):
        for name, value in line.items():
            if name not in ("step", "group"):
                groups.setdefault(line["group"], {}).setdefault(name, {})[line["step"]] = float(value)
    return {group: {name: sorted(points.items()) for name, points in series.items()} for group, series in groups.items()}
