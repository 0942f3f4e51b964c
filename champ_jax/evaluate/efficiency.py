"""What a step, a run or a video costs: time, memory, and which share of a chip's peak was used."""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from champ_jax.errors import UserError
from champ_jax.parallel import flops
from champ_jax.parallel.chips import CHIPS, Chip

WARM_UP, REPEATS = 3, 20
KINDS = {"v5 lite": "v5e", "v5e": "v5e", "v5p": "v5p", "v5": "v5p", "v6 lite": "v6e", "v6e": "v6e", "h200": "h200", "h100": "h100"}
"""What is in the name that JAX gives a device, and which of CHIPS it is; the more particular names first."""


def chip_of(device: Any) -> Chip | None:
    """The chip that a device of JAX is; None for one whose peak is not known, as of a CPU."""
    kind = device.device_kind.lower()
    return next((CHIPS[name] for mark, name in KINDS.items() if mark in kind), None)


def measure(function: Callable, *arguments: Any, repeats: int = REPEATS) -> dict[str, Any]:
    """Times a function of arrays, warm and waited for, and says what was reached: plain values by the catalogue's names.

    step_seconds, step_seconds_p90: of `repeats` calls. compile_seconds. model_flops, padded_flops of one call. mfu, mfu_of_ceiling:
    on chips whose peak is known; else their reasons are in "notes". peak_memory in GB, of the device where it tells, else the
    compiler's estimate, which "notes" says.
    """
    began = time.perf_counter()
    traced = jax.jit(function).trace(*arguments)
    compiled = traced.lower().compile()
    compile_seconds = time.perf_counter() - began
    for _ in range(WARM_UP):
        jax.block_until_ready(compiled(*arguments))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - began)
    chip = chip_of(jax.devices()[0])
    operations = flops.count(traced.jaxpr, chip.unit if chip else 128)
    result = {
        **_spread(seconds),
        "compile_seconds": compile_seconds,
        "model_flops": operations.model,
        "padded_flops": operations.padded,
        "counts": {"step_seconds": repeats, "step_seconds_p90": repeats},
        "notes": {},
    }
    _add_mfu(result, operations.model, operations.ceiling, result["step_seconds"], chip, len(jax.devices()))
    _add_memory(result, compiled)
    return result


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


def _add_mfu(result: dict, model: float, ceiling: float, seconds: float, chip: Chip | None, devices: int) -> None:
    if chip is None:
        for name in ("mfu", "mfu_of_ceiling"):
            result["notes"][name] = f"the peak of this device ({jax.devices()[0].device_kind}) is not known"
        return
    result["mfu"] = model / seconds / devices / chip.peak
    result["mfu_of_ceiling"] = result["mfu"] / ceiling


def _add_memory(result: dict, compiled: Any) -> None:
    found = compiled.memory_analysis()
    planned = found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    if measured := device_memory():
        result |= measured
    else:
        result["peak_memory"] = planned / 1e9
        result["notes"]["peak_memory"] = "this device does not tell: what the compiler plans for the program"


def peak_resident() -> float:
    """The most memory that this process has ever had, in GB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage's begins with that of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def of_run(directory: Path) -> dict[str, Any]:
    """Of a training run, from the figures it logged: as `measure`, and input_wait and train_frames_per_second.

    Steps are those between two logged lines, divided by how many they were: training and waiting for input, without compiling,
    saving and validating. Raises UserError when it is no run, or one without a logged step.
    """
    lines = _lines(directory)
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


def _lines(directory: Path) -> list[dict]:
    path = directory / "metrics.jsonl"
    try:
        return [json.loads(text) for text in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{directory}: no metrics.jsonl of a training run can be read there: {error}") from error
