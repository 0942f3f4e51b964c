"""What a training run costs: time, memory, and which share of a chip's peak it used."""

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from champ_jax.errors import UserError
from champ_jax.evaluate.run_log import LOG, read_lines
from champ_jax.parallel import flops
from champ_jax.parallel.chips import CHIPS, Chip

KINDS = {"v5 lite": "v5e", "v5e": "v5e", "v5p": "v5p", "v5": "v5p", "v6 lite": "v6e", "v6e": "v6e", "h200": "h200", "h100": "h100"}
"""What is in the name that JAX gives a device, and which of CHIPS it is; the more particular names first."""


def chip_of(device: Any) -> Chip | None:
    """The chip that a device of JAX is; None for one whose peak is not known, as of a CPU."""
    kind = device.device_kind.lower()
    return next((CHIPS[name] for mark, name in KINDS.items() if mark in kind), None)


def describe_program(step: Callable, state: Any, batch: Mapping[str, Any], seed: int) -> dict[str, float]:
    """What a jitted training step consists of, for its log: what `of_run` makes MFU and frames a second of.

    model_flops of all devices; ceiling, the share of the peak that padding leaves; devices; peak_flops of one, 0 where it is not
    known; frames, images or poses, of a batch.
    """
    chip = chip_of(jax.devices()[0])
    operations = flops.count(step.trace(state, batch, seed).jaxpr, chip.unit if chip else 128)
    frames = next(batch[name] for name in ("video", "moments", "keypoints") if name in batch)
    return {
        "model_flops": operations.model,
        "ceiling": operations.ceiling,
        "devices": len(jax.devices()),
        "peak_flops": chip.peak if chip else 0.0,
        "frames": frames.shape[0] * frames.shape[1],
    }


def device_memory() -> dict[str, float]:
    """{"peak_memory": GB} of the first device so far; nothing where it does not tell, as on CPUs."""
    used = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {} if used is None else {"peak_memory": used / 1e9}


def _spread(seconds: list[float]) -> dict[str, float]:
    return {"step_seconds": statistics.median(seconds), "step_seconds_p90": float(np.percentile(seconds, 90))}


def of_run(directory: Path) -> dict[str, Any]:
    """{metric: value} of a training run, from the figures it logged; "counts" {metric: of how many}, "notes" {metric: why it is missing}.

    Steps are those between two logged lines, divided by how many they were: training and waiting for input, without compiling,
    saving and validating. Raises UserError when it is no run, or one without a logged step.
    """
    lines = read_lines(directory / LOG)
    times = [line for line in lines if line["group"] == "seconds"]
    if len(times) < 2:
        raise UserError(f"{directory}: {len(times)} logged lines of times; a run of two and more is needed (log.scalars says how often)")
    seconds, waited, spent = [], 0.0, 0.0
    for before, line in zip(times, times[1:]):
        steps = line["step"] - before["step"]
        if steps > 0 and not line["compile"]:
            seconds.append((line["training"] + line["input"]) / steps)
            waited, spent = waited + line["input"], spent + line["training"] + line["input"]
    result: dict[str, Any] = {"compile_seconds": sum(line["compile"] for line in times), "notes": {}}
    if not seconds:
        result["notes"] |= dict.fromkeys(("step_seconds", "step_seconds_p90"), "every logged stretch compiled something")
        return result
    result |= _spread(seconds) | {"input_wait": waited / spent}
    result["counts"] = {"step_seconds": len(seconds), "step_seconds_p90": len(seconds)}
    program = next((line for line in lines if line["group"] == "program"), None)
    if program is None:
        result["notes"] |= dict.fromkeys(("mfu", "mfu_of_ceiling", "peak_memory"), "the run did not log what its step consists of")
        return result
    result["train_frames_per_second"] = program["frames"] / result["step_seconds"]
    if program["peak_flops"]:
        result["mfu"] = program["model_flops"] / result["step_seconds"] / program["devices"] / program["peak_flops"]
        result["mfu_of_ceiling"] = result["mfu"] / program["ceiling"]
    else:
        result["notes"] |= dict.fromkeys(("mfu", "mfu_of_ceiling"), "the peak of the run's devices is not known")
    if used := [line["peak_memory"] for line in lines if line["group"] == "memory"]:
        result["peak_memory"] = max(used)
    else:
        result["notes"]["peak_memory"] = "the run's devices do not tell"
    return result
