"""onnx_dance.py: it needs no JAX, hears what JAX hears, and makes the pipeline's frames."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from champ_jax.errors import UserError
from champ_jax.export.driver import DRIVER, WITH_JAX, imported, needed, path_of, write_driver
from champ_jax.export.graphs import choose_shapes, manifest
from champ_jax.export.onnx_dance import Graphs, dance, render
from champ_jax.export.write import write_export
from champ_jax.infer.photo import Photo, standing_body
from tests.infer.tiny import SIZE

pytest.importorskip("onnxruntime", reason="onnx and onnxruntime are not installed")
SONG = Path(__file__).parents[2] / "assets" / "songs" / "disco_2.ogg"
HEARD = """
import sys
sys.path = [path for path in sys.path if "champ" not in path]
sys.path.insert(0, ".")
import numpy as np, onnx_dance
wave = np.load("wave.npy")
np.save("heard.npy", onnx_dance.features(wave, 24000, 24.0, "rich192"))
wrong = [name for name in sys.modules if name.split(".")[0] in ("jax", "jaxlib", "flax", "champ_jax")]
assert not wrong, wrong
"""


def test_what_is_copied_needs_no_jax():
    modules = needed(DRIVER)
    assert len(modules) > 10
    with_jax = {name for name in modules if any(other.split(".")[0] in ("jax", "flax") for other in imported(path_of(name).read_text()))}
    assert with_jax == set(WITH_JAX), "only music features are given NumPy in place of JAX"


def test_the_copies_hear_what_jax_hears(tmp_path):
    from champ_jax.audio.beats import resample
    from champ_jax.audio.features import features
    from champ_jax.audio.load import load_audio

    audio, rate = load_audio(SONG)
    wave = resample(audio[: 4 * rate], rate, 24_000)
    np.save(tmp_path / "wave.npy", wave)
    write_driver(tmp_path)
    assert "champ_jax." not in (tmp_path / "onnx_dance.py").read_text().split('"""', 2)[2]
    done = subprocess.run([sys.executable, "-c", HEARD], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "heard.npy"), features(wave, 24_000, 24.0, "rich192"), atol=2e-3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, plain):
    """Graphs of a plain model, that cannot dance."""
    folder = tmp_path_factory.mktemp("exported") / "out"
    write_export(plain, folder, "onnx", "f32", choose_shapes(plain))
    return folder


def with_sampler(folder, pipe, sampler, steps):
    """Graphs whose manifest has the table of another sampler."""
    settings = dataclasses.replace(pipe.settings, sampler=sampler)
    other = SimpleNamespace(config=pipe.config, schedule=pipe.schedule, settings=settings)
    graphs = Graphs(folder)
    graphs.manifest |= {name: value for name, value in manifest(other, choose_shapes(pipe, steps=steps), []).items() if name != "graphs"}
    assert graphs.manifest["sampler"] == sampler
    return graphs


@pytest.mark.parametrize(("sampler", "steps", "frames"), [("ddim", 3, 13), ("unipc", 4, 13), ("dpm++", 3, 3)])
def test_frames_are_the_pipelines(exported, plain, sampler, steps, frames):
    """Windows that move from step to step, classifier-free guidance, samplers that look back, a clip shorter than a window."""
    graphs = with_sampler(exported, plain, sampler, steps)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    maps = {"depth": rng.integers(0, 256, (frames, *SIZE, 3), np.uint8)}
    wanted = plain.animate(image, maps, seed=3, steps=steps, sampler=sampler).frames.astype(float)
    found = render(graphs, Photo(image, *standing_body(SIZE), None, "given"), maps, seed=3)
    assert found.shape == wanted.shape and found.dtype == np.uint8
    assert 10 * np.log10(255**2 / max(np.mean((found - wanted) ** 2), 1e-9)) > 50


def test_lcm_adds_noise_of_the_seed(exported, plain):
    graphs, frames = with_sampler(exported, plain, "lcm", 2), []
    photo = Photo(np.zeros((*SIZE, 3), np.uint8), *standing_body(SIZE), None, "given")
    for seed in (0, 0, 1):
        frames.append(render(graphs, photo, {"depth": np.zeros((4, *SIZE, 3), np.uint8)}, seed))
    np.testing.assert_array_equal(frames[0], frames[1])
    assert (frames[0] != frames[2]).any()


def test_what_cannot_dance_says_so(exported, tmp_path):
    with pytest.raises(UserError, match="this model cannot dance"):
        dance(exported, "photo.png", "song.ogg")
    (tmp_path / "manifest.json").write_text(json.dumps({"graphs": {"m2p": {}}, "kinds": ["dwpose"]}))
    for seconds in (0, -1.0):
        with pytest.raises(UserError, match="give more than 0"):
            dance(tmp_path, "photo.png", "song.ogg", seconds)
