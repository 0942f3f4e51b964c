"""Evaluations side by side: values, differences to the first on the clips that both have, and whether they are more than chance."""

import html
import json
import math
from pathlib import Path
from typing import Any

from champ_jax.errors import UserError
from champ_jax.evaluate import page
from champ_jax.evaluate.catalogue import METRICS
from champ_jax.evaluate.cells import SIGNIFICANT, change_cells, difference, facts, titled, value_cell
from champ_jax.evaluate.files import plain, read_results, write_csv
from champ_jax.files import write_text


def compare_runs(paths: list[Path]) -> dict[str, Any]:
    """{"runs": [{name, facts}], "warnings": [...], "metrics": [{name, title, values: [...], changes: [{mean, low, high, p, n} or None]}]}.

    Raises UserError for fewer than two runs, or runs without a clip or a metric in common with the first.
    """
    if len(paths) < 2:
        raise UserError("compare takes two evaluations and more")
    runs = [read_results(path) for path in paths]
    names = _names(paths)
    first, warnings = runs[0], []
    clips = {record["name"] for record in first["records"]}
    for name, run in zip(names[1:], runs[1:]):
        shared = clips & {record["name"] for record in run["records"]}
        if not shared:
            raise UserError(f"{name} and {names[0]} have no clip in common: their numbers do not compare")
        if len(shared) < max(len(clips), len(run["records"])):
            warnings.append(f"{name} and {names[0]} share {len(shared)} clips of {len(run['records'])} and {len(clips)}")
        for what in ("protocol", "resolution"):
            if run[what] != first[what]:
                warnings.append(f"{what} of {name} is {run[what]}, of {names[0]} {first[what]}: their numbers do not compare")
        if differing := [file for file, digest in run["weights"].items() if first["weights"].get(file, digest) != digest]:
            warnings.append(f"{name} and {names[0]} looked through different files called {', '.join(differing)}")
    metrics = []
    for name in METRICS:
        rows = [next((row for row in run["metrics"] if row["name"] == name and row["n"]), None) for run in runs]
        if sum(row is not None for row in rows) > 1:
            changes = [None] + [_change(name, run, first) for run in runs[1:]]
            values = [math.nan if row is None else row["value"] for row in rows]
            metrics.append({"name": name, "title": METRICS[name].title, "values": values, "changes": changes})
    if not metrics:
        raise UserError(f"{', '.join(names)} have no metric in common")
    return {"runs": [{"name": n, "facts": facts(run)} for n, run in zip(names, runs)], "warnings": warnings, "metrics": metrics}


def _change(name: str, run: dict, first: dict) -> dict[str, float] | None:
    found = difference(name, run, first)
    if not found.n:  # a distance of sets: clips have none of it
        return None
    return {"mean": found.mean, "low": found.interval.low, "high": found.interval.high, "p": found.p, "n": found.n}


def _names(paths: list[Path]) -> list[str]:
    """The folders' names, with their parents' where these are the same."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def write_comparison(out: Path, comparison: dict[str, Any]) -> Path:
    """compare.html, compare.json and compare.csv in the folder `out`; returns the first."""
    names = [run["name"] for run in comparison["runs"]]
    header = ["metric", names[0]]
    for name in names[1:]:
        header += [name, "difference", "p"]
    rows, lines = [], []
    for metric in comparison["metrics"]:
        name, values = metric["name"], metric["values"]
        cells: list[page.Cell] = [titled(name), value_cell(name, values[0])]
        line = {"metric": name, names[0]: values[0]}
        for run, value, change in zip(names[1:], values[1:], metric["changes"][1:]):
            cells.append(value_cell(name, value))
            line[run] = value
            if change is None:
                cells += ["", ""]
                continue
            cells += change_cells(name, change["mean"], change["p"])
            line |= {f"{run}: {what}": change[what] for what in ("mean", "low", "high", "p", "n")}
        rows.append(cells)
        lines.append(line)
    about = "; ".join(f"{run['name']}: {run['facts']}" for run in comparison["runs"])
    warnings = "".join(f"<p class=bad>{html.escape(warning)}</p>" for warning in comparison["warnings"])
    caption = f"differences to {names[0]}, clip by clip; in colour where chance gives as much in fewer than {SIGNIFICANT:.0%} of the cases"
    sections = [page.section("Side by side", warnings, page.table(header, rows, caption))]
    path = out / "compare.html"
    write_text(path, page.page(f"Comparison of {', '.join(names)}", about, sections))
    write_text(out / "compare.json", json.dumps(plain(comparison), indent=1) + "\n")
    columns = list(dict.fromkeys(column for line in lines for column in line))
    write_csv(out / "compare.csv", columns, lines)
    return path
