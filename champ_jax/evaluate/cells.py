"""How values of metrics, and differences between two runs, are shown: the words and the cells of all tables."""

import math
from collections.abc import Mapping
from typing import Any

from champ_jax.evaluate.catalogue import HIGHER, LOWER, METRICS, REAL
from champ_jax.evaluate.page import Cell
from champ_jax.metrics.stats import Difference, paired_difference

SIGNIFICANT = 0.05
ARROWS = {HIGHER: "↑", LOWER: "↓", REAL: "≈"}
Results = Mapping[str, Any]
"""Of an evaluation, as `summarise` gives it and files.py writes it."""


def facts(results: Results) -> str:
    """One line about a run: protocol, how many, which size, when."""
    size = ", ".join(results["resolution"]) or "no frames"
    return f"protocol {results['protocol']}; {results['clips']} clips, {results['frames']} frames; {size}; {results['date'][:16]} UTC"


def shown(name: str, value: float | None) -> str:
    """A value with as many decimals as it deserves."""
    if value is None or math.isnan(value):
        return ""
    return "∞" if math.isinf(value) else f"{value:.{METRICS[name].decimals}f}"


def titled(name: str) -> str:
    """A metric's title with its unit and an arrow to where it is better."""
    metric = METRICS[name]
    return f"{metric.title}{f', {metric.unit}' if metric.unit else ''} {ARROWS[metric.better]}"


def difference(name: str, results: Results, baseline: Results) -> Difference:
    """Of a metric of clips: this run less the baseline, clip by clip."""
    ours = {record["name"]: record["values"].get(name, math.nan) for record in results["records"]}
    theirs = {record["name"]: record["values"].get(name, math.nan) for record in baseline["records"]}
    both = [clip for clip in ours if clip in theirs]
    return paired_difference([theirs[clip] for clip in both], [ours[clip] for clip in both])


def verdict(name: str, change: float, p: float) -> str:
    """The class "good" or "bad" of a change that is more than chance."""
    if METRICS[name].better == REAL or not p < SIGNIFICANT or not change:
        return ""
    return "good" if (change > 0) == (METRICS[name].better == HIGHER) else "bad"


def value_cell(name: str, value: float) -> Cell:
    """A value in a table; empty for nan."""
    return shown(name, value), value, ""


def change_cells(name: str, change: float, p: float) -> list[Cell]:
    """(difference, p) in a table, in colour where it is more than chance; p is empty for nan."""
    sign = "+" if change > 0 else ""
    return [(sign + shown(name, change), change, verdict(name, change, p)), ("" if math.isnan(p) else f"{p:.3f}", p, "")]
