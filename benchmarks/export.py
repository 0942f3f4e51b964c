"""A model in every format: how far each graph is from JAX, how large the files are, and how far whole videos are.

python -m benchmarks.export [--checkpoint assets/weights/demo] [--seconds 4]

Each graph's largest error is that of onnxruntime on the CPU against `jax.jit` in float32, on noise; of StableHLO it says whether
all bits are equal. "video" is the PSNR of onnx_dance.py's frames against those of `Pipeline.dance`.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.common import DEMO, PHOTO, REPOSITORY, SONG, make_parser, print_header, print_row, psnr
from champ_jax.export.graphs import choose_shapes, make_graphs
from champ_jax.export.onnx import run_file
from champ_jax.export.write import example_inputs, write_export
from champ_jax.infer.pipeline import load_pipeline

DANCE = """
import sys, pathlib, numpy as np
sys.path.insert(0, sys.argv[1])
import onnx_dance
frames, _ = onnx_dance.dance(pathlib.Path(sys.argv[1]), *sys.argv[2:4], float(sys.argv[4]))
assert not {"jax", "champ_jax"} & set(sys.modules)
np.save(sys.argv[5], frames)
"""


LOAD = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder))
from load import load
from safetensors.numpy import load_file, save_file
import numpy as np
for name, run in load(folder).items():
    save_file({key: np.ascontiguousarray(x) for key, x in run(**load_file(folder / f"{name}.in")).items()}, folder / f"{name}.out")
assert "champ_jax" not in sys.modules
"""


def bytes_of(folder: Path, about: dict, ending: str) -> int:
    """Bytes of a folder's files with graphs and weights."""
    return sum((folder / name).stat().st_size for name in about["files"] if name.endswith((ending, ".safetensors", ".data")))


def equal_bits(folder: Path, truth: dict) -> bool:
    """Whether StableHLO read back by `load.py`, in a process that has only that, gives what jit gave."""
    from safetensors.numpy import load_file, save_file

    for name, (inputs, _) in truth.items():
        save_file({key: np.ascontiguousarray(x) for key, x in inputs.items()}, folder / f"{name}.in")
    subprocess.run([sys.executable, "-c", LOAD, str(folder)], check=True, cwd=folder)
    found = {name: load_file(folder / f"{name}.out") for name in truth}
    return all(np.array_equal(found[name][key], x) for name, (_, wanted) in truth.items() for key, x in wanted.items())


def video_psnr(folder: Path, arguments: list[str], wanted: np.ndarray) -> float:
    """dB of the video that the folder's driver makes in a process of its own."""
    place = folder / "frames.npy"
    subprocess.run([sys.executable, "-c", DANCE, str(folder), *arguments, str(place)], check=True, cwd=folder)
    return psnr(np.load(place), wanted)


def main() -> None:
    """Exports, compares, prints one table."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path(DEMO), help="the model to export")
    parser.add_argument("--seconds", type=float, default=4.0, help="of the video")
    args = parser.parse_args()
    photo, song = str(REPOSITORY / PHOTO), str(REPOSITORY / SONG)
    pipe = load_pipeline(args.checkpoint)
    shapes = choose_shapes(pipe)
    frames = pipe.dance(photo, song, seconds=args.seconds).frames
    truth = {}
    for graph in make_graphs(pipe, shapes):
        inputs = example_inputs(graph)
        truth[graph.name] = inputs, jax.device_get(jax.jit(graph.function)(graph.params, inputs))
    print_header(("format", "MiB", "of f32", "seconds to write", "largest error, by graph", "video"))
    whole = {}
    for format, precision in (("stablehlo", "f32"), ("stablehlo", "f16"), ("stablehlo", "int8"),
                              ("onnx", "f32"), ("onnx", "f16"), ("onnx", "int8"), ("tensorrt", "f16")):  # fmt: skip
        with tempfile.TemporaryDirectory() as place:
            folder, began = Path(place) / "out", time.perf_counter()
            about = write_export(pipe, folder, format, precision, shapes)
            seconds = time.perf_counter() - began
            size = bytes_of(folder, about, ".stablehlo" if format == "stablehlo" else ".onnx")
            whole.setdefault(format.replace("tensorrt", "onnx"), size)
            error = video = "-"
            if (format, precision) == ("stablehlo", "f32"):
                error = "all bits equal" if equal_bits(folder, truth) else "BITS DIFFER"
            if format == "onnx":
                error = ", ".join(f"{name} {error_of(folder, name, about, *truth[name]):.1g}" for name in truth)
                video = f"{video_psnr(folder, [photo, song, str(args.seconds)], frames):.1f} dB"
            share = whole[format.replace("tensorrt", "onnx")] / size
            print_row(f"{format} {precision}", f"{size / 2**20:.1f}", f"1/{share:.2f}", f"{seconds:.0f}", error, video)


def error_of(folder: Path, name: str, about: dict, inputs: dict, wanted: dict) -> float:
    """The largest error of a graph's outputs, over the largest of 1 and their standard deviation."""
    dtypes = {key: spec["dtype"] for key, spec in about["graphs"][name]["inputs"].items()}
    found = run_file(folder / f"{name}.onnx", {key: x.astype(dtypes[key]) for key, x in inputs.items()})
    return max(float(np.abs(found[key].astype(np.float32) - x).max() / max(1.0, x.std())) for key, x in wanted.items())


if __name__ == "__main__":
    main()
