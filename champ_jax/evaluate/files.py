"""What an evaluation leaves on disk: parts of hosts, results as JSON, CSV and LaTeX; written whole or not at all, and read back."""

import csv
import io
import json
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from champ_jax.errors import UserError
from champ_jax.evaluate.catalogue import METRICS
from champ_jax.evaluate.judge import Part
from champ_jax.evaluate.sets import SAMPLES, Features
from champ_jax.evaluate.summary import FORMAT
from champ_jax.files import atomic_file, write_text
from champ_jax.metrics.frechet import Moments, Sample

RESULTS = "results.json"


def write_results(out: Path, results: dict[str, Any]) -> None:
    """results.json, metrics.csv, clips.csv and metrics.tex of `summarise`'s results in the folder `out`."""
    text = json.dumps(plain(results), indent=1, allow_nan=False)
    write_text(out / RESULTS, text + "\n")
    columns = ["name", "title", "value", "low", "high", "n", "unit", "better", "real", "through", "note"]
    rows = [{**{c: row[c] for c in columns}, "protocol": results["protocol"]} for row in results["metrics"]]
    rows = [row | {"resolution": " ".join(results["resolution"])} for row in rows]
    write_csv(out / "metrics.csv", [*columns, "protocol", "resolution"], rows)
    names = [name for name in METRICS if any(name in record["values"] for record in results["records"])]
    clips = [{"clip": r["name"], "frames": r["frames"], "fps": r["fps"], **r["values"]} for r in results["records"]]
    write_csv(out / "clips.csv", ["clip", "frames", "fps", *names], clips)
    write_text(out / "metrics.tex", _latex(results))


def read_results(path: str | os.PathLike) -> dict[str, Any]:
    """What `write_results` wrote in a folder, or the results.json itself; numbers as floats again. Raises UserError for anything else."""
    path = Path(path)
    file = path / RESULTS if path.is_dir() else path
    try:
        results = json.loads(file.read_text())
        if results["format"] != FORMAT:
            raise UserError(f"{file} is of format {results['format']}, and this version reads {FORMAT}: evaluate again")
        for row in results["metrics"]:
            row["value"] = _number(row["value"])
        for record in results["records"]:
            record["values"] = {name: _number(value) for name, value in record["values"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no results of champ-jax evaluate ({error!r}); give its --out folder") from error
    return results


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def plain(value: Any) -> Any:
    """The same with what JSON has: nan is null and infinity the text "inf"."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return None if math.isnan(value) else float(value) if math.isfinite(value) else str(float(value))
    return value.item() if isinstance(value, np.generic) else value


def write_csv(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """Writes rows {column: value} as CSV; what is absent, or nan, is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({c: "" if isinstance(v, float) and math.isnan(v) else v for c, v in row.items()} for row in rows)
    write_text(path, text.getvalue())


def _latex(results: dict[str, Any]) -> str:
    """A table of what was measured, for a paper: booktabs."""
    arrows = {"higher": r"$\uparrow$", "lower": r"$\downarrow$", "as real": ""}
    lines = [
        f"% champ-jax evaluate, protocol {results['protocol']}, {results['clips']} clips, {' '.join(results['resolution'])}",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"Metric & Value & 95\,\% interval & $n$ \\",
        r"\midrule",
    ]
    for row in results["metrics"]:
        if row["n"]:
            title = row["title"].replace("_", r"\_").replace("%", r"\%")
            ends = "" if row["low"] is None else f"[{_decimals(row, row['low'])}, {_decimals(row, row['high'])}]"
            lines.append(rf"{title} {arrows[row['better']]} & {_decimals(row, row['value'])} & {ends} & {row['n']} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _decimals(row: dict[str, Any], value: float) -> str:
    return r"$\infty$" if math.isinf(value) else f"{value:.{METRICS[row['name']].decimals}f}"


def part_path(out: Path, shard: tuple[int, int]) -> Path:
    """Where the part of shard k of n lies."""
    return out / "parts" / f"{shard[0]:05d}-of-{shard[1]:05d}.npz"


def write_part(path: Path, part: Part, key: str) -> None:
    """Writes a part; `key` says of which evaluation."""
    arrays: dict[str, np.ndarray] = {}
    about = {"key": key, "records": plain(part.records), "labels": part.labels, "dances": {}}
    for metric, features in part.features.items():
        for (side, group), moments in features.moments.items():
            at = f"{metric}/moments/{side}/{group}"
            arrays |= {f"{at}/count": np.asarray(moments.count), f"{at}/mean": moments.mean, f"{at}/scatter": moments.scatter}
        for side, sample in features.samples.items():
            at = f"{metric}/sample/{side}"
            arrays |= {f"{at}/keys": sample.keys, f"{at}/features": sample.features, f"{at}/groups": sample.groups}
    for kind, clips in part.dances.items():
        about["dances"][kind] = {name: [v.tolist(), None if t is None else t.tolist()] for name, (v, t) in clips.items()}
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with atomic_file(path) as file:
        np.savez_compressed(file, **arrays)


def read_part(path: Path, key: str) -> Part:
    """Reads a part. Raises UserError when it is damaged or of another evaluation."""
    try:
        with np.load(path, allow_pickle=False) as held:
            about = json.loads(held["about"].tobytes())
            arrays = {name: held[name] for name in held.files if name != "about"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it and evaluate that shard again") from error
    if about["key"] != key:
        raise UserError(f"{path}: it is of other clips or settings; give another --out, or remove it")
    part = Part(about["records"], labels=about["labels"])
    for record in part.records:
        record["values"] = {name: _number(value) for name, value in record["values"].items()}
    for name in sorted(arrays):
        metric, what, side, *rest = name.split("/")
        features = part.features.setdefault(metric, Features())
        at = name.rpartition("/")[0]
        if what == "moments" and rest[-1] == "count":
            features.moments[int(side), int(rest[0])] = Moments(int(arrays[name]), arrays[f"{at}/mean"], arrays[f"{at}/scatter"])
        elif what == "sample" and rest[-1] == "keys":
            features.samples[int(side)] = Sample(SAMPLES, arrays[name], arrays[f"{at}/features"], arrays[f"{at}/groups"])
    for kind, clips in about["dances"].items():
        vectors = {name: (np.array(v), None if t is None else np.array(t)) for name, (v, t) in clips.items()}
        part.dances[kind] = vectors
    return part


def join_parts(parts: list[Part], order: list[str]) -> Part:
    """All parts as one, records in the order of the clips' names."""
    whole = Part()
    for part in parts:
        whole.records += part.records
        whole.labels |= part.labels
        for metric, features in part.features.items():
            whole.features.setdefault(metric, Features()).merge(features)
        for kind, clips in part.dances.items():
            whole.dances.setdefault(kind, {}).update(clips)
    place = {name: number for number, name in enumerate(order)}
    whole.records.sort(key=lambda record: place[record["name"]])
    for kind, clips in whole.dances.items():
        whole.dances[kind] = dict(sorted(clips.items(), key=lambda item: place[item[0]]))
    return whole
