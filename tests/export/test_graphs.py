"""The functions that every format is made from: what they take, what they keep, and that together they are the pipeline."""

import copy
import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.diffusion.samplers import ddim_step, make_steps
from champ_jax.diffusion.schedule import make_schedule, to_x0
from champ_jax.errors import UserError
from champ_jax.export.graphs import choose_shapes, make_graphs, manifest, reached
from champ_jax.export.quantise import quantise
from champ_jax.infer.pipeline import on_device


def test_names_are_a_contract(graphs, plain):
    assert list(graphs) == ["vae_encode", "clip", "reference", "guidance", "face_id", "denoise", "vae_decode", "m2p"]
    assert [graph.name for graph in make_graphs(plain, choose_shapes(plain))] == [
        "vae_encode", "reference", "guidance", "denoise", "vae_decode"]  # fmt: skip
    inputs = graphs["denoise"].inputs
    assert {"latents", "t", "guidance", "context", "reference_weight", "face", "face_weight"} <= set(inputs)
    assert {"mid/attention_0/keys", "mid/attention_0/coarse_keys", "mid/attention_0/moments"} <= set(inputs)
    assert graphs["reference"].outputs.items() <= inputs.items(), "what the reference gives the denoiser takes"
    assert graphs["m2p"].inputs["music"].shape == (24, 192)


def test_a_graph_keeps_only_what_reaches_its_outputs(graphs, everything):
    assert all(path.startswith("vae/") for path in graphs["vae_encode"].params)
    assert not set(graphs["vae_encode"].params) & set(graphs["vae_decode"].params)
    last = "reference/up_0/attention_1/"
    kept = [path for path in graphs["reference"].params if path.startswith(last)]
    assert kept and not any("ff" in path or "proj_out" in path for path in kept), "what follows the last features is left out"


def test_reached_follows_the_program():
    def function(params, inputs):
        unused = params["a"] * 2  # noqa: F841
        return {"y": jnp.sin(params["b"]) + inputs["x"]}

    used, outputs = reached(function, {"a": 1.0, "b": 2.0}, {"x": 3.0})
    assert used == {"b"} and outputs["y"].shape == ()


def test_the_manifest_has_the_samplers_table(everything):
    shapes = choose_shapes(everything, steps=5)
    about = manifest(everything, shapes, [])
    rng = np.random.default_rng(0)
    x, prediction = rng.standard_normal((2, 1, 3, 4)).astype(np.float32)
    times = [step["t"] for step in about["steps"]]
    assert len(times) == 5 and times[0] == 999
    for step, before in zip(about["steps"], [*times[1:], -1]):
        wanted = ddim_step(everything.schedule, x, prediction, step["t"], before)
        clean = step["x0"][0] * x + step["x0"][1] * prediction
        np.testing.assert_allclose(step["mix"][0][0] * x + step["mix"][0][2] * clean, wanted, atol=1e-5)
    assert about["window"] == 4 and about["overlap"] == 1 and about["latents"] == [8, 8, 4] and about["guidance_scale"] == 2.0


@pytest.mark.parametrize("prediction", ["v", "epsilon", "x0"])
def test_clean_data_of_every_kind_of_prediction(everything, prediction):
    schedule, settings = make_schedule(prediction=prediction), dataclasses.replace(everything.settings, sampler="unipc")
    pipe = SimpleNamespace(config=everything.config, schedule=schedule, settings=settings)
    about = manifest(pipe, choose_shapes(everything, steps=4), [])
    x, predicted = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    assert about["sampler"] == "unipc"
    for row, mix in zip(about["steps"], make_steps(schedule, 4, "unipc").mix, strict=True):
        found = row["x0"][0] * x + row["x0"][1] * predicted
        np.testing.assert_allclose(found, to_x0(schedule, x, predicted, row["t"]), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(row["mix"], mix)


def test_quantised_weights_are_exported_as_numbers(plain):
    quantised = copy.copy(plain)
    quantised.params = on_device(quantise(jax.device_get(plain.params), "w8a8"))
    for graph, other in zip(make_graphs(quantised, choose_shapes(plain)), make_graphs(plain, choose_shapes(plain)), strict=True):
        assert graph.inputs == other.inputs and graph.params.keys() == other.params.keys()
        for path, array in graph.params.items():
            np.testing.assert_allclose(array, other.params[path], atol=0.02, err_msg=path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": (30, 32)}, "--size is 30x32 .height x width.: this model needs multiples of 4"),
        ({"frames": 9}, "--frames is 9: this model's windows have 1 to 8 frames"),
        ({"frames": 0}, "--frames is 0"),
        ({"photos": 9}, "--photos is 9: give 1 to 8"),
        ({"steps": 0}, "0 sampling steps"),
    ],
)
def test_wrong_shapes_are_refused(everything, wrong, message):
    with pytest.raises(UserError, match=message):
        choose_shapes(everything, **wrong)


def test_only_a_cpu_exports(everything, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match="JAX_PLATFORMS=cpu"):
        make_graphs(everything, choose_shapes(everything))
