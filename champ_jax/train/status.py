"""How a run stands, from the files in its folder."""

import json
from pathlib import Path
from typing import Any

from champ_jax.checkpoint import store
from champ_jax.evaluate.run_log import LOG, SKIPPED, read_lines
from champ_jax.train import lock

LATEST = 3


def read_status(workdir: Path) -> dict[str, Any]:
    """Everything that `champ-jax status` shows, JSON-able; reads only.

    state: "running", "finished" or "stopped"; step of steps; train, validation: newest figures; seconds: by kind, of the
    work that was kept; goodput: the share of it spent in steps; step_seconds: of one step lately; seconds_left;
    checkpoints: "valid", or what is wrong, by step; skipped_steps: how many, and the newest; workdir's holder if it runs.
    Raises UserError for a broken line in the run's files.
    """
    record = json.loads((workdir / "config.json").read_text())
    log, skips = workdir / LOG, workdir / SKIPPED
    lines = read_lines(log) if log.is_file() else []
    groups = {name: [line for line in lines if line["group"] == name] for name in ("train", "validation", "seconds")}
    steps = record["config"]["optim"]["steps"]
    step = max((line["step"] for line in lines), default=0)
    holder = lock.read(workdir / lock.NAME)
    running = holder is not None and lock.alive(workdir / lock.NAME, holder, 2 * lock.BEAT_SECONDS)
    seconds = _sums(groups["seconds"])
    total = sum(seconds.values())
    each = _step_seconds(groups["seconds"])
    skipped = read_lines(skips, ("step",)) if skips.is_file() else []
    return {
        "workdir": str(workdir),
        "stage": record["config"]["stage"],
        "state": "running" if running else "finished" if (workdir / "weights").is_dir() and step >= steps else "stopped",
        "step": step,
        "steps": steps,
        "train": _newest(groups["train"]),
        "validation": _newest(groups["validation"]),
        "seconds": seconds,
        "goodput": seconds.get("training", 0.0) / total if total else None,
        "step_seconds": each,
        "seconds_left": None if each is None else each * (steps - step),
        "checkpoints": {str(number): state for number, state in store.describe_steps(workdir / "checkpoints")},
        "skipped_steps": {"count": len(skipped), "latest": [line["step"] for line in skipped[-LATEST:]]},
        "holder": {name: holder[name] for name in ("host", "process")} if running else None,
    }


def _figures(line: dict) -> dict[str, float]:
    """What a line of metrics.jsonl says of its step."""
    return {name: value for name, value in line.items() if name not in ("step", "group")}


def _newest(lines: list[dict]) -> dict[str, float]:
    return _figures(lines[-1]) if lines else {}


def _sums(lines: list[dict]) -> dict[str, float]:
    """Sums over lines of every figure, in the order of the first line that has it."""
    sums: dict[str, float] = {}
    for line in lines:
        for name, value in _figures(line).items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def _step_seconds(lines: list[dict]) -> float | None:
    """Wall seconds of one step between the two newest lines, whatever they were spent on."""
    if len(lines) < 2 or lines[-1]["step"] <= lines[-2]["step"]:
        return None
    return sum(_newest(lines).values()) / (lines[-1]["step"] - lines[-2]["step"])
