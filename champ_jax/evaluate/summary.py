"""From records of clips to the rows of a report: every number with how many it comes from, an interval, and what is to be known of it."""

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import champ_jax
from champ_jax.evaluate.catalogue import GROUPS, METRICS
from champ_jax.evaluate.dances import FEATURES
from champ_jax.evaluate.judge import Judge, Part
from champ_jax.evaluate.networks import Network
from champ_jax.evaluate.sets import FeatureSets
from champ_jax.metrics import dance, frechet, stats

FORMAT = 1
Row = dict[str, Any]


def summarise(part: Part, judge: Judge, efficiency: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The report's content, plain values: rows of metrics, records of clips, and what they were made with.

    efficiency: {metric: value} of a run, with "notes" {metric: why it is missing}.
    """
    found = _of_clips(part, judge) | _of_sets(part, judge) | _of_dances(part)
    for name, value in (efficiency or {}).items():
        if name in METRICS:
            found[name] = _row(name, value, efficiency.get("counts", {}).get(name, 1))
    reasons = (efficiency or {}).get("notes", {})
    rows = [found.get(name) or _missing(name, judge, reasons) for name in METRICS if name in found or _shown_missing(name, judge)]
    sizes = sorted({tuple(record["size"]) for record in part.records if record["size"]})
    return {
        "format": FORMAT,
        "champ_jax": champ_jax.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "protocol": judge.protocol,
        "resolution": [f"{height}x{width}" for height, width in sizes],
        "clips": len(part.records),
        "frames": sum(record["frames"] for record in part.records),
        "weights": {file: digest for name in METRICS if (network := _network(name, judge)) for file, digest in network.files.items()},
        "metrics": rows,
        "records": part.records,
    }


def _row(name: str, value: float, n: int, interval=stats.NONE, **more: Any) -> Row:
    metric = METRICS[name]
    low, high = (None if math.isnan(end) else end for end in interval)
    row = {"name": name, "title": metric.title, "group": metric.group, "unit": metric.unit, "better": metric.better, "value": value}
    row |= {"low": low, "high": high, "n": n, "real": None, "through": "", "note": ""} | more
    if n < metric.least and not row["note"]:
        row["note"] = f"n = {n}: says little; {metric.least} {metric.counts} and more mean something"
    return row


def _missing(name: str, judge: Judge, reasons: Mapping[str, str]) -> Row:
    metric = METRICS[name]
    absent = metric.network and _network(name, judge) is None
    why = judge.networks.missing(metric.network) if absent else metric.needs or GROUPS[metric.group]
    return _row(name, math.nan, 0, note=reasons.get(name) or why)


def _shown_missing(name: str, judge: Judge) -> bool:
    return not METRICS[name].optional and METRICS[name].protocol in ("", judge.protocol)


def _network(name: str, judge: Judge) -> Network | None:
    network = METRICS[name].network
    return judge.networks[network] if network else None


def _through(name: str, part: Part, judge: Judge) -> str:
    """What a metric looked through, in words with hashes."""
    network = _network(name, judge)
    return network.label if network else part.labels.get(name, "")


def _of_clips(part: Part, judge: Judge) -> dict[str, Row]:
    """Means over clips of what each clip has a value of."""
    rows = {}
    for name in METRICS:
        values = [record["values"][name] for record in part.records if name in record["values"]]
        if not values:
            continue
        finite = [value for value in values if math.isfinite(value)]
        equal = len(values) - len(finite) if finite else 0
        real = [record["real"][name] for record in part.records if math.isfinite(record["real"].get(name, math.nan))]
        rows[name] = _row(
            name,
            float(np.mean(finite)) if finite else math.inf,
            len(values) - equal,
            stats.bootstrap_mean(finite),
            real=float(np.mean(real)) if real else None,
            through=_through(name, part, judge),
            note=f"without {equal} clips that are equal to the reference" if equal else "",
        )
    return rows


def _of_sets(part: Part, judge: Judge) -> dict[str, Row]:
    """Distances of sets of frames and windows."""
    sets = FeatureSets(judge.networks, judge.protocol)
    sets.features = part.features
    rows = {}
    for name, found in sets.distances().items():
        n = min(found.counts)
        note = ""
        if name != "kid" and n <= found.width:
            note = f"n = {n} feature vectors of width {found.width}: the covariance has no full rank, and the distance is too large"
        rows[name] = _row(name, found.value, n, found.interval, through=_through(name, part, judge), note=note)
    return rows


def _of_dances(part: Part) -> dict[str, Row]:
    """Distances and diversities of dances, all standardised by the true ones."""
    rows = {}
    for name, kind in FEATURES.items():
        pairs = [pair for pair in part.dances.get(kind, {}).values() if pair[1] is not None]
        if len(pairs) < 3:
            continue
        real = np.stack([pair[1] for pair in pairs])
        if not (real.std(0) > 1e-6 * np.abs(real).max()).any():  # one dance, again and again: no distribution
            continue
        compat = kind.endswith("compat")
        own = dance.standardised(np.stack([pair[0] for pair in pairs]), real, compat)
        true = dance.standardised(real, real, compat)

        def apart(kept: Sequence[int], own=own, true=true) -> float:
            chosen = list(kept)
            return frechet.frechet_distance(frechet.Moments.of(own[chosen]), frechet.Moments.of(true[chosen]))

        note = ""
        if len(pairs) <= own.shape[1]:
            note = f"n = {len(pairs)} dances, {own.shape[1]} features: no full rank; halves of the true ones are {_floor(true):.2f} apart"
        every = range(len(pairs))
        rows[name] = _row(name, apart(every), len(pairs), stats.jackknife(apart, len(pairs)) if len(pairs) <= 50 else stats.NONE, note=note)
        if not compat:
            key = f"diversity_{name[-1]}"
            rows[key] = _row(key, dance.diversity(own), len(pairs), real=dance.diversity(true))
    return rows


def _floor(true: np.ndarray) -> float:
    """Distance of two halves of the true dances: what no generator can be asked to beat."""
    order = np.random.default_rng(stats.SEED).permutation(len(true))
    half = len(true) // 2
    return frechet.frechet_distance(frechet.Moments.of(true[order[:half]]), frechet.Moments.of(true[order[half:]]))
