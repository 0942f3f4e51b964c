"""A pipeline to a folder of graphs in one of the formats, with a manifest; the folder appears when all of it is written."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from champ_jax.checkpoint.weights import check_replaceable, replace_folder
from champ_jax.errors import UserError, did_you_mean
from champ_jax.export.graphs import Arrays, Graph, Shapes, make_graphs, manifest
from champ_jax.export.onnx import check_onnx, write_onnx
from champ_jax.export.stablehlo import write_stablehlo
from champ_jax.export.tensorrt import write_tensorrt
from champ_jax.infer.pipeline import Pipeline

WRITERS = {"stablehlo": write_stablehlo, "onnx": write_onnx, "tensorrt": write_tensorrt}
PRECISIONS = {"stablehlo": ("f32", "f16", "int8"), "onnx": ("f32", "f16", "int8"), "tensorrt": ("f32", "f16")}


def check_export(out: Path, format: str, precision: str) -> None:
    """Raises UserError for what can be known to be wrong before the model is read."""
    if format not in PRECISIONS:
        raise UserError(f"--format is {format!r}{did_you_mean(format, PRECISIONS)}: give {', '.join(PRECISIONS)}")
    if precision not in PRECISIONS[format]:
        why = "; TensorRT's int8 wants activations quantised too, by data" if (format, precision) == ("tensorrt", "int8") else ""
        raise UserError(f"--precision is {precision!r}: {format} has {', '.join(PRECISIONS[format])}{why}")
    check_replaceable(Path(out).absolute(), lambda path: False)
    if format != "stablehlo":
        check_onnx()


def write_export(pipe: Pipeline, out: Path, format: str, precision: str, shapes: Shapes) -> dict:
    """Writes the graphs of `pipe` into the empty or new folder `out`; returns the manifest, which is stored there as manifest.json.

    Raises UserError as `check_export` and `make_graphs` do, and for models that the format cannot hold.
    """
    out = Path(out).absolute()
    check_export(out, format, precision)
    graphs = make_graphs(pipe, shapes, jnp.float16 if precision == "f16" else jnp.float32)
    about = {"format": format, "precision": precision, **manifest(pipe, shapes, graphs)}
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        for name, more in WRITERS[format](partial, graphs, precision).items():
            about["graphs"][name] |= more
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        about["files"] = {path.relative_to(partial).as_posix(): _digest(path) for path in files}
        (partial / "manifest.json").write_text(json.dumps(about, indent=1) + "\n")
        replace_folder(partial, out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return about


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def example_inputs(graph: Graph) -> Arrays:
    """Inputs to try a graph with: noise, a timestep amid the schedule, a visible body inside the frame."""
    rng = np.random.default_rng(0)
    values = {}
    for name, x in graph.inputs.items():
        if x.dtype == np.uint8:
            values[name] = rng.integers(0, 256, x.shape, np.uint8)
        elif name == "t":
            values[name] = np.full(x.shape, 500, np.int32)
        elif name.endswith(("weight", "weights", "confidence")):
            values[name] = np.ones(x.shape, x.dtype)
        elif name.endswith("keypoints"):
            values[name] = (64 * rng.random(x.shape)).astype(x.dtype)
        else:
            values[name] = rng.standard_normal(x.shape).astype(x.dtype)
    return values
