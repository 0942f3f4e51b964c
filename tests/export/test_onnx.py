"""ONNX files: onnxruntime gives what JAX gives, weights as halves and integers, and what cannot be written is named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.errors import UserError
from champ_jax.export.graphs import Graph
from champ_jax.export.onnx import run_file, write_onnx
from champ_jax.export.onnx_ops import to_model

pytest.importorskip("onnxruntime", reason="onnx and onnxruntime are not installed")


def worst(found, wanted) -> float:
    return max(float(np.abs(np.asarray(found[name], np.float32) - np.asarray(x, np.float32)).max()) for name, x in wanted.items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory, graphs):
    place = tmp_path_factory.mktemp("onnx")
    write_onnx(place, list(graphs.values()), "f32")
    return place


def test_every_graph_agrees_with_jax(folder, truth):
    for name, (inputs, wanted) in truth.items():
        found = run_file(folder / f"{name}.onnx", inputs)
        assert found.keys() == wanted.keys()
        assert worst(found, wanted) < 1e-3, name


def test_no_photo_is_a_weight_of_zero(folder, graphs, truth):
    inputs = {**truth["denoise"][0], "reference_weight": np.zeros((1, 2), np.float32)}
    found = run_file(folder / "denoise.onnx", inputs)["prediction"]
    other = {name: 7 * x if "attention" in name else x for name, x in inputs.items()}
    np.testing.assert_array_equal(found, run_file(folder / "denoise.onnx", other)["prediction"])


@pytest.mark.parametrize(("precision", "bound"), [("f16", 0.02), ("int8", 0.3)])
def test_smaller_numbers(tmp_path, graphs, half_graphs, truth, folder, precision, bound):
    chosen = half_graphs if precision == "f16" else graphs.values()
    picked = [graph for graph in chosen if graph.name in ("denoise", "vae_decode", "clip")]
    write_onnx(tmp_path, picked, precision)
    for graph in picked:
        inputs, wanted = truth[graph.name]
        inputs = {name: inputs[name].astype(x.dtype) for name, x in graph.inputs.items()}
        assert worst(run_file(tmp_path / f"{graph.name}.onnx", inputs), wanted) < bound * max(
            1, max(np.abs(x).max() for x in wanted.values())
        )
    assert (tmp_path / "denoise.onnx").stat().st_size < 0.8 * (folder / "denoise.onnx").stat().st_size


def test_norms_and_softmax_stay_in_float32(half_graphs):
    denoise = next(graph for graph in half_graphs if graph.name == "denoise")
    import onnx

    model = onnx.shape_inference.infer_shapes(to_model(denoise), strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    for node in model.graph.node:
        if node.op_type in ("Exp", "ReduceSum", "Reciprocal"):
            assert kinds[node.output[0]] == onnx.TensorProto.FLOAT, node.name
    products = [kinds[node.output[0]] for node in model.graph.node if node.op_type in ("MatMul", "Conv")]
    assert products.count(onnx.TensorProto.FLOAT16) > 0.9 * len(products)


@pytest.mark.parametrize("precision", ["f32", "f16", "int8"])
def test_weights_that_are_read_twice_are_stored_once(graphs, precision):
    """Two sizes of the reference read the same kernels."""
    for name in ("denoise", "reference"):
        weights = [weight for weight in to_model(graphs[name], precision).graph.initializer if "/" in weight.name]
        stored = [(weight.data_type, tuple(weight.dims), weight.raw_data) for weight in weights if weight.raw_data.strip(b"\0")]
        assert len(stored) > 20 and len(set(stored)) == len(stored)
        assert not [weight.name for weight in weights if weight.name.endswith("+")]


def test_large_weights_lie_beside_the_file(tmp_path, graphs, truth):
    write_onnx(tmp_path, [graphs["denoise"]], "f32", max_inline=1000)
    assert (tmp_path / "denoise.onnx.data").stat().st_size > (tmp_path / "denoise.onnx").stat().st_size / 4
    inputs, wanted = truth["denoise"]
    assert worst(run_file(tmp_path / "denoise.onnx", inputs), wanted) < 1e-3


# ---- Single programs ----

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 6, 8, 4)).astype(np.float32)
SMALL = RNG.standard_normal((3, 4)).astype(np.float32)


def convolve(x, kernel=(3, 3, 4, 6), groups=1, **options):
    weights = jnp.asarray(np.linspace(-1, 1, int(np.prod(kernel))).reshape(kernel), jnp.float32)
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, weights, dimension_numbers=numbers, feature_group_count=groups, **options)


PROGRAMS = {
    "stride and uneven padding": (lambda x: convolve(x, window_strides=(2, 2), padding=((0, 1), (0, 1))), X),
    "groups and dilation": (lambda x: convolve(x, (3, 3, 2, 6), 2, window_strides=(1, 1), padding="SAME", rhs_dilation=(2, 1)), X),
    "batch axes that do not lead": (lambda x: jnp.einsum("bhwc,bhvc->wbv", x, x), X),
    "a product of vectors": (lambda x: jnp.einsum("bhwc,bhwc->b", x, x), X),
    "a vector and a matrix": (lambda x: x[0] @ x.T, SMALL),
    "kept repetitions": (lambda x: jnp.broadcast_to(x[:, None], (3, 5, 4)).transpose(1, 0, 2) * 2 + x, SMALL),
    "repetitions that count": (lambda x: jnp.broadcast_to(x[:, :, None], (3, 4, 2)).sum((0, 2)), SMALL),
    "a loop over chunks": (lambda x: jax.lax.map(lambda row: jnp.exp(row) + x[0], x), SMALL),
    "a loop that carries": (lambda x: jax.lax.scan(lambda c, row: (c + row, c * row), x[0], x)[1], SMALL),
    "any, all, where": (lambda x: jnp.where((x > 0).any(0) & (x < 9).all(0), x.max(0), x.min(0)), SMALL),
    "half to even": (lambda x: jnp.round(x * 4) + jnp.floor(x), SMALL),
    "rows of a table": (lambda x: jnp.take(jnp.asarray(SMALL), (x[:, 0] > 0).astype(jnp.int32), axis=0), SMALL),
    "parts": (lambda x: jnp.stack([*jnp.split(x, 2, 1), x[:, ::2]]), SMALL),
    "zeros around": (lambda x: jnp.pad(x, ((1, 0), (2, 1))), SMALL),
    "the input itself": (lambda x: x, SMALL),
    "nothing of the input": (lambda x: jnp.ones((2, 3)), SMALL),
    "many numbers in a row": (lambda x: x.sum() + jnp.arange(3 << 19)[-3:].astype(jnp.float32), SMALL),
    "halves": (lambda x: jax.nn.softmax(x.astype(jnp.float16) * 2, -1).astype(jnp.float32), SMALL),
    "gelu, silu, rsqrt": (lambda x: jax.nn.gelu(x, approximate=False) + jax.nn.silu(x) + jax.lax.rsqrt(x * x + 1), SMALL),
}  # fmt: skip


def program(function, x) -> Graph:
    run = lambda params, inputs: {"y": function(inputs["x"])}  # noqa: E731
    y = jax.eval_shape(function, x)
    return Graph("program", run, {}, {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)}, {"y": y})


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_agrees_with_jax(tmp_path, name):
    function, x = PROGRAMS[name]
    write_onnx(tmp_path, [program(function, x)], "f32")
    found = run_file(tmp_path / "program.onnx", {"x": x})["y"]
    np.testing.assert_allclose(found, function(x), atol=1e-2 if name == "halves" else 1e-5, rtol=1e-5)


def test_what_onnx_does_not_have_is_named():
    with pytest.raises(UserError, match="this model uses sort, which ONNX export does not know"):
        to_model(program(lambda x: jnp.sort(x), SMALL))


def test_integers_are_by_output_channel(tmp_path):
    """A channel a thousand times smaller than the others keeps its digits."""
    kernel = RNG.standard_normal((40, 40)).astype(np.float32) * np.where(np.arange(40) == 3, 1e-3, 1)
    graph = dataclasses.replace(
        program(lambda x: x, RNG.standard_normal((5, 40)).astype(np.float32)),
        function=lambda params, inputs: {"y": inputs["x"] @ params["kernel"]}, params={"kernel": kernel.astype(np.float32)},
    )  # fmt: skip
    write_onnx(tmp_path, [graph], "int8")
    x = RNG.standard_normal((5, 40)).astype(np.float32)
    found, wanted = run_file(tmp_path / "program.onnx", {"x": x})["y"], x @ kernel
    np.testing.assert_allclose(found[:, 3], wanted[:, 3], atol=1e-4)
    assert np.abs(found - wanted).max() < 0.2
