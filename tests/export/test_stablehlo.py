"""StableHLO: bit for bit what jit gives, in a process that has never heard of this project."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from champ_jax.export.stablehlo import PLATFORMS, stored, write_stablehlo

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
    truth = {name: truth[name] for name in ("clip", "denoise", "vae_decode")}  # benchmarks.export has all of them
    about = write_stablehlo(folder, [graphs[name] for name in truth], "f32")
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


@pytest.mark.parametrize(("precision", "dtype", "bound"), [("f16", np.float16, 1e-2), ("int8", np.int8, 0.2)])
def test_smaller_weights(graphs, truth, precision, dtype, bound):
    """Matrices are stored in less, vectors as they are; integers are multiplied by their scales again."""
    graph = graphs["clip"]
    function, params = stored(graph, precision)
    assert params["clip/layer_0/ff_in/kernel"].dtype == (dtype if precision == "f16" else np.float32), "too small to be worth scales"
    assert params["clip/norm_in/scale"].dtype == np.float32
    assert params["clip/patch/kernel"].dtype == dtype
    inputs, wanted = truth["clip"]
    np.testing.assert_allclose(function(params, inputs)["tokens"], wanted["tokens"], atol=bound)


def test_the_platforms_are_named(tmp_path, graphs):
    about = write_stablehlo(tmp_path, [graphs["vae_encode"]], "int8")
    assert about["vae_encode"]["platforms"] == PLATFORMS
    assert set(load_file(tmp_path / "weights.safetensors")) == set(about["vae_encode"]["params"])
