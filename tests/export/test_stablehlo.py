"""StableHLO: bit for bit what jit gives, in a process that has never heard of this project."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from champ_jax.export.graphs import choose_shapes, make_graphs
from champ_jax.export.stablehlo import PLATFORMS, write_stablehlo
from champ_jax.export.write import write_export

CLEAN = """
import sys
sys.path = [path for path in sys.path if "champ" not in path]
sys.path.insert(0, {folder!r})
from load import load
from safetensors.numpy import load_file, save_file
import numpy as np
graphs = load({folder!r})
for name, run in graphs.items():
    inputs = {{key.split("|")[1]: x for key, x in load_file({inputs!r}).items() if key.split("|")[0] == name}}
    save_file({{key: np.ascontiguousarray(x) for key, x in run(**inputs).items()}}, {folder!r} + "/" + name + ".out")
assert "champ_jax" not in sys.modules and "flax" not in sys.modules
"""


def test_a_clean_process_gives_the_same_bits(tmp_path, graphs, truth):
    folder = tmp_path / "out"
    folder.mkdir()
    about = write_stablehlo(folder, list(graphs.values()), "f32")
    (folder / "manifest.json").write_text(json.dumps({"graphs": about}))
    inputs = {f"{name}|{key}": np.ascontiguousarray(x) for name, (given, _) in truth.items() for key, x in given.items()}
    save_file(inputs, tmp_path / "inputs")
    code = CLEAN.format(folder=str(folder), inputs=str(tmp_path / "inputs"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name, (_, wanted) in truth.items():
        found = load_file(folder / f"{name}.out")
        assert found.keys() == wanted.keys()
        for key, x in wanted.items():
            assert np.array_equal(found[key], x), f"{name} {key}"


@pytest.mark.parametrize(("precision", "share"), [("f16", 0.6), ("int8", 0.4)])
def test_smaller_weights(tmp_path, plain, precision, share):
    """Of a tiny model's weights a good part are vectors and stay float32."""
    shapes = choose_shapes(plain)
    about = write_export(plain, tmp_path / "small", "stablehlo", precision, shapes)
    weights = load_file(tmp_path / "small" / "weights.safetensors")
    full = {path: x for graph in make_graphs(plain, shapes) for path, x in graph.params.items()}
    assert sum(x.nbytes for x in weights.values()) < share * sum(4 * x.size for x in full.values())
    kernel = "denoiser/mid/resnet_0/conv1/kernel"
    assert weights[kernel].dtype == {"f16": np.float16, "int8": np.int8}[precision]
    assert weights["denoiser/mid/resnet_0/norm1/scale"].dtype == np.float32
    assert about["graphs"]["denoise"]["platforms"] == PLATFORMS
    assert set(about["files"]) >= {"load.py", "weights.safetensors", "denoise.stablehlo"}
