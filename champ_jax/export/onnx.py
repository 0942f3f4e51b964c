"""ONNX: each graph as a file that onnxruntime and others run, and `onnx_dance.py`, which makes whole videos with them."""

import importlib.util
from pathlib import Path

import numpy as np

from champ_jax.errors import UserError
from champ_jax.export.driver import write_driver
from champ_jax.export.graphs import Graph
from champ_jax.export.onnx_builder import OPSET
from champ_jax.export.onnx_ops import to_model

MAX_INLINE = 1 << 30
"""Bytes of weights in the file itself; a protobuf ends at 2 GB, and larger ones lie beside it as NAME.onnx.data."""


def check_onnx() -> None:
    """Raises UserError where the package onnx is missing."""
    if importlib.util.find_spec("onnx") is None:
        raise UserError("ONNX files need the package onnx: run `pip install -e '.[onnx]'` in the repository")


def write_onnx(folder: Path, graphs: list[Graph], precision: str, max_inline: int = MAX_INLINE) -> dict[str, dict]:
    """Writes NAME.onnx of each graph, checked by onnx itself, and the driver; returns what the manifest says of each besides.

    precision: "int8" stores weights as integers with a scale for each output channel; f16 comes with the graphs.
    Raises UserError for what ONNX export does not know.
    """
    import onnx

    about = {}
    for graph in graphs:
        model = to_model(graph, precision)
        path = folder / f"{graph.name}.onnx"
        beside = sum(len(weight.raw_data) for weight in model.graph.initializer) > max_inline
        onnx.save_model(
            model, path, save_as_external_data=beside, all_tensors_to_one_file=True, location=f"{path.name}.data", size_threshold=1024
        )
        onnx.checker.check_model(path, full_check=True)
        about[graph.name] = {"opset": OPSET, "operators": sorted({node.op_type for node in model.graph.node})}
    write_driver(folder)
    return about


def run_file(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What onnxruntime makes of a file on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))
