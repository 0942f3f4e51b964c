"""TensorRT: the ONNX files, `build.sh` with a trtexec line for each, and what is known of them before a GPU is there."""

import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np

from champ_jax.errors import UserError
from champ_jax.export.graphs import Graph
from champ_jax.export.onnx import write_onnx

SUPPORTED_BY = "onnx-tensorrt docs/operators.md, TensorRT 10.15, opset 9 to 24"
SUPPORTED = frozenset(
    "Abs Add And ArgMax ArgMin Cast Ceil Clip Concat Constant ConstantOfShape Conv Cos DequantizeLinear Div Equal Erf Exp Expand "
    "Floor Gather Gelu Gemm Greater GreaterOrEqual Identity LayerNormalization Less LessOrEqual Log MatMul Max Min Mul Neg Not Or Pad "
    "Pow QuantizeLinear Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Reshape Round Shape Sigmoid Sign Sin "
    "Slice Softmax Split Sqrt Squeeze Sub Tanh Tile TopK Transpose Unsqueeze Where Xor".split()
)
"""Of TensorRT's operators those that we might write."""
UINT8 = ("Cast", "Identity")
"""TensorRT has uint8 as inputs and outputs alone: they have to be cast first."""
SCRIPT = """#!/usr/bin/env bash
# Builds TensorRT engines of the ONNX files beside this script; needs trtexec of TensorRT 10.
# Every shape is fixed, so there is one profile. {precision}
# GroupNorm is written as sums and products: TensorRT up to 10.16.1 is wrong in its own for a single group.
set -euo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")"
trtexec="${{TRTEXEC:-trtexec}}"
command -v "$trtexec" > /dev/null || {{
    echo "error: there is no $trtexec: install TensorRT, or name it with TRTEXEC=" >&2
    exit 2
}}
{lines}
"""
FLAGS = {
    "f32": "",
    "f16": "--stronglyTyped",
}
SAYS = {
    "f32": "Float32; add --fp16 or --bf16 for more speed at the price of norms and softmax in it too.",
    "f16": "The files say which numbers are float16 and which float32 (norms, softmax): --stronglyTyped keeps to that.",
}


def write_tensorrt(folder: Path, graphs: list[Graph], precision: str) -> dict[str, dict]:
    """Writes the ONNX files and build.sh, checks them, and builds the engines where trtexec is there.

    Raises UserError for operators that TensorRT does not have, and where trtexec fails.
    """
    about = write_onnx(folder, graphs, precision)
    for graph in graphs:
        check_file(folder / f"{graph.name}.onnx")
    lines = [command(graph.name, precision) for graph in graphs]
    script = folder / "build.sh"
    script.write_text(SCRIPT.format(lines="\n".join(lines), precision=SAYS[precision]))
    script.chmod(0o755)
    if shutil.which("trtexec"):
        done = subprocess.run([str(script.resolve())], capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}, without a word").splitlines()
            raise UserError(f"trtexec failed: {said[-1][:300]}")
    return about


def command(name: str, precision: str) -> str:
    """The line of shell that builds an engine."""
    words = [f"--onnx={name}.onnx", f"--saveEngine={name}.plan", *FLAGS[precision].split()]
    words += ["--builderOptimizationLevel=5", "--timingCacheFile=timing.cache", "--skipInference"]
    return f'"$trtexec" {shlex.join(words)}'


def check_file(path: Path) -> None:
    """What can be known without TensorRT: each operator is one that it has, each shape is known, uint8 is cast at once.

    Raises UserError with the first thing that it would stumble over.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), strict_mode=True, data_prop=True)
    wrong = sorted({node.op_type for node in model.graph.node} - SUPPORTED)
    if wrong:
        raise UserError(f"{path.name} has {', '.join(wrong)}, which TensorRT does not have ({SUPPORTED_BY})")
    shaped = {value.name: value.type.tensor_type for value in [*model.graph.value_info, *model.graph.output, *model.graph.input]}
    for node in model.graph.node:
        for name in node.output:
            if name not in shaped or not all(dim.HasField("dim_value") for dim in shaped[name].shape.dim):
                raise UserError(f"{path.name}: the shape of {name} is not fixed, and TensorRT would ask for a profile")
    bytes_in = {
        value.name
        for value in model.graph.input
        if value.type.tensor_type.elem_type == onnx.helper.np_dtype_to_tensor_dtype(np.dtype("uint8"))
    }
    for node in model.graph.node:
        if bytes_in & set(node.input) and node.op_type not in UINT8:
            raise UserError(f"{path.name}: {node.name} computes with uint8, which TensorRT has as an input alone")
