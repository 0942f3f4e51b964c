"""StableHLO: each graph as `jax.export` serialises it, for CPUs, CUDA and TPUs at once, its weights beside it, and a loader.

The attention is the XLA path, which every platform has. JAX reads such files for at least six months after the release that
wrote them, and needs nothing of this project for it.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from champ_jax.checkpoint.tensors import write_safetensors
from champ_jax.export.graphs import Arrays, Graph
from champ_jax.export.onnx_builder import MIN_INT8
from champ_jax.nn.quantised import to_eight_bits

PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS = "weights.safetensors"
SCALE = "#scale"
LOADER = '''"""Loads the graphs of this folder; needs jax, numpy and safetensors.

    graphs = load("folder")
    outputs = graphs["denoise"](latents=..., t=..., ...)     # dicts of arrays; manifest.json lists names, shapes and dtypes
"""

import json
from pathlib import Path

import jax
from jax import export
from safetensors.numpy import load_file


def load(folder):
    """{name: function of the graph's inputs by name}."""
    folder = Path(folder)
    weights = load_file(folder / "weights.safetensors")
    graphs = {}
    for name, about in json.loads((folder / "manifest.json").read_text())["graphs"].items():
        call = jax.jit(export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes())).call)
        params = {path: weights[key] for path, key in about["params"].items()}
        graphs[name] = lambda call=call, params=params, **inputs: call(params, inputs)
    return graphs
'''


def stored(graph: Graph, precision: str) -> tuple[Any, Arrays]:
    """(function, parameters) of a graph with its matrices as f32, f16 or int8 and their scales; vectors stay float32."""
    if precision == "int8":
        params: Arrays = {}
        for path, array in graph.params.items():
            if array.ndim >= 2 and array.size >= MIN_INT8:
                params[path], params[path + SCALE] = to_eight_bits(np.asarray(array))
            else:
                params[path] = np.asarray(array)
        return lambda params, inputs: graph.function(_from_int8(params), inputs), params
    half = lambda x: x.astype(np.float16) if precision == "f16" and x.ndim >= 2 else x  # noqa: E731
    return graph.function, {path: half(np.asarray(array)) for path, array in graph.params.items()}


def _from_int8(params: Arrays) -> Arrays:
    scaled = lambda path, x: x.astype(jnp.float32) * params[path + SCALE] if path + SCALE in params else x  # noqa: E731
    return {path: scaled(path, x) for path, x in params.items() if not path.endswith(SCALE)}


def write_stablehlo(folder: Path, graphs: list[Graph], precision: str) -> dict[str, dict]:
    """Writes NAME.stablehlo of each graph, the weights of all and `load.py`; returns what the manifest says of each graph besides.

    Graphs that read the same parameter share it.
    """
    weights: Arrays = {}
    about = {}
    for graph in graphs:
        function, params = stored(graph, precision)
        exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(params, graph.inputs)
        (folder / f"{graph.name}.stablehlo").write_bytes(exported.serialize())
        weights |= params
        about[graph.name] = {"params": {path: path for path in params}, "platforms": PLATFORMS}
    write_safetensors(folder / WEIGHTS, weights)
    (folder / "load.py").write_text(LOADER)
    return about
