"""ONNX files: every way in which tensors are stored, and damaged or hostile files, which must cost nothing."""

import resource
import struct
import time

import numpy as np
import pytest

from champ_jax.convert.arcface_onnx import arcface_state
from champ_jax.convert.onnx_file import Node, OnnxFile, read_onnx
from champ_jax.convert.protobuf import MAX_FIELDS
from champ_jax.errors import UserError
from tests.convert.onnx_bytes import fixed32, model, node, number, span, tensor, varint
from tests.recorded import DIRECTORY

FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5


@pytest.fixture
def file(tmp_path):
    """file(bytes) -> the path of a file with them."""

    def write(data: bytes):
        path = tmp_path / "model.onnx"
        path.write_bytes(data)
        return path

    return write


def refused(path, match):
    with pytest.raises(UserError, match=match) as caught:
        read_onnx(path)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400 and str(path) in text


@pytest.mark.parametrize(
    "data",
    [
        span(9, FLOATS.tobytes()),
        span(4, FLOATS.tobytes()),
        b"".join(fixed32(4, x) for x in FLOATS.ravel()),
    ],
    ids=["raw", "packed", "single"],
)
def test_floats(file, data):
    found = read_onnx(file(model([tensor("w", (2, 3), data), tensor("v", (1,), span(9, b"\0" * 4))])))
    assert list(found.initialisers) == ["w", "v"] and found.initialisers["w"].shape == (2, 3)
    np.testing.assert_array_equal(np.asarray(found.initialisers["w"]), FLOATS)


def test_dims_one_by_one_and_after_the_data(file):
    data = span(8, "w") + span(9, FLOATS.tobytes()) + number(2, 1) + number(1, 2) + number(1, 3)
    np.testing.assert_array_equal(np.asarray(read_onnx(file(model([data]))).initialisers["w"]), FLOATS)


def test_many_single_floats(file):
    """A run far longer than the budget of fields."""
    values = np.arange(MAX_FIELDS + 77, dtype=np.float32)
    raw = np.empty((len(values), 5), np.uint8)
    raw[:, 0], raw[:, 1:] = 4 << 3 | 5, values.view(np.uint8).reshape(-1, 4)
    found = read_onnx(file(model([tensor("w", (len(values),), raw.tobytes())])))
    np.testing.assert_array_equal(np.asarray(found.initialisers["w"]), values)


def test_other_tensors(file):
    tensors = [
        tensor("i", (2,), span(7, varint(-1) + varint(300)), 7),
        tensor("j", (2,), number(7, 5) + number(7, -6), 7),
        tensor("h", (2,), span(9, np.float16([1, -2]).tobytes()), 10),
        tensor("d", (), span(10, struct.pack("<d", 0.5)), 11),
        tensor("e", (0, 4), b""),
    ]
    found = read_onnx(file(model(tensors))).initialisers
    values = {name: np.asarray(array).tolist() for name, array in found.items()}
    assert values == {"i": [-1, 300], "j": [5, -6], "h": [1, -2], "d": 0.5, "e": []}
    assert found["h"].dtype == np.float16 and found["e"].shape == (0, 4)


def test_graph(file):
    attributes = [
        span(1, "f") + fixed32(2, 0.5),
        span(1, "i") + number(3, -3) + number(20, 2),
        span(1, "s") + span(4, "NOTSET"),
        span(1, "t") + span(5, tensor("", (1,), span(9, b"\0\0\x80\x3f"))),
        span(1, "floats") + span(7, struct.pack("<2f", 1, 2)),
        span(1, "singles") + fixed32(7, 1) + fixed32(7, 2),
        span(1, "ints") + number(8, 1) + number(8, 2),
        span(1, "strings") + span(9, "a") + span(9, "b"),
        span(1, "none"),
    ]
    nodes = [node("Conv", ("x", "w"), ("h",), b"".join(span(5, x) for x in attributes)), node("Relu", ("h",), ("y",))]
    found = read_onnx(file(model([tensor("w", (1,), span(9, b"\0" * 4))], nodes, inputs=("x", "w"))))
    assert (found.inputs, found.outputs) == (("x",), ("y",))
    assert [(x.op_type, x.inputs, x.outputs) for x in found.nodes] == [("Conv", ("x", "w"), ("h",)), ("Relu", ("h",), ("y",))]
    values = dict(found.nodes[0].attributes)
    assert np.asarray(values.pop("t")).tolist() == [1]
    assert values == {
        "f": 0.5, "i": -3, "s": "NOTSET", "floats": [1, 2], "singles": [1, 2], "ints": [1, 2], "strings": ["a", "b"], "none": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "empty"),
        (b"PK\3\4 not a network", "cannot be read as ONNX"),
        (b"\x08\x08", "0 graphs"),
        (span(7, b"") * 2, "2 graphs"),
        (varint(7 << 3 | 2) + varint(1 << 62) + b"x", "claims to end"),
        (varint(7 << 3 | 2) + b"\xff" * 12, "64 bits"),
        (varint(7 << 3 | 2) + b"\xff", "breaks off"),
        (varint(1 << 3 | 3) * 200, "begins no field"),
        (number(7, 3), "should be a span"),
        (varint(0) + varint(0), "begins no field"),
        (model([tensor("w", (2, 3), span(9, b"\0" * 20))]), "needs 24"),
        (model([tensor("w", (2, 3), span(4, b"\0" * 20))]), "needs 24"),
        (model([tensor("w", (2,), fixed32(4, 1))]), "needs 8"),
        (model([tensor("w", (1 << 40, 1 << 40), span(9, b"\0" * 20))]), "needs"),
        (model([tensor("w", (1 << 40,), b"")]), "none"),
        (model([tensor("w", (-1, 2), span(9, b"\0" * 20))]), "shape"),
        (model([tensor("w", (1,) * 99, span(9, b"\0" * 4))]), "shape"),
        (model([tensor("w", (1,), span(9, b"\0" * 4), 8)]), "dtype 8"),
        (model([tensor("w", (1,), span(9, b"\0" * 4) * 2)]), "one piece"),
        (model([tensor("w", (1,), span(5, b"\0"), 10)]), "raw data"),
        (model([tensor("w", (2,), span(7, b"\0"), 7)]), "1 elements"),
        (model([tensor("w", (1,), span(13, span(1, "location")))]), "other files"),
        (model([tensor("w", (1,), number(14, 1))]), "other files"),
        (model([tensor("w", (1,), span(9, b"\0" * 4))] * 2), "name of another"),
        (model([tensor("", (1,), span(9, b"\0" * 4))]), "no name"),
        (model([tensor("n" * 2000, (1,), span(9, b"\0" * 4))]), "names have at most"),
        (model(nodes=[span(4, b"\xff\xfe")]), "not text"),
        (model(nodes=[node("If", (), (), span(5, span(1, "then") + span(6, b"")))]), "another graph"),
        (model(nodes=[node("X", (), (), span(5, span(1, "a") + number(3, 1) + fixed32(2, 1)))]), "several kinds"),
        (model(nodes=[node("X", (), (), span(5, span(1, "a") + span(7, b"\0" * 6)))]), "within a number"),
        (span(7, span(15, b"")), "sparse"),
    ],
)  # fmt: skip
def test_wrong_files(file, data, match):
    refused(file(data), match)


def test_missing_file(tmp_path):
    refused(tmp_path / "none.onnx", "No such file")


def test_every_truncation_is_refused(file):
    whole = model([tensor("w", (2, 3), span(9, FLOATS.tobytes()))], [node("Conv", ("x", "w"), ("y",))])
    for length in range(len(whole)):
        refused(file(whole[:length]), "cannot be read as ONNX")


def test_damaged_bytes_never_end_otherwise_than_in_an_error(file):
    whole = bytearray((DIRECTORY / "arcface_folded.onnx").read_bytes())
    draw = np.random.RandomState(0)
    for _ in range(300):
        damaged = whole.copy()
        for at in draw.randint(0, len(whole), 5) if draw.rand() < 0.5 else draw.randint(0, 4000, 3):
            damaged[at] = draw.randint(256)
        try:
            arcface_state(read_onnx(file(bytes(damaged))))
        except UserError as error:
            assert "\n" not in str(error)


def test_nesting_costs_nothing(file):
    data = b""
    for _ in range(3000):
        data = span(6, span(1, span(5, data)))  # a graph in an attribute of a node of a graph
    refused(file(model(nodes=[span(5, data)])), "another graph")


@pytest.mark.parametrize(
    "part",
    [span(1, b""), span(1, span(1, "")), span(5, tensor("", (0,), b"")), span(99, b""), span(1, span(5, span(8, b"\1" * 4)))],
    ids=["nodes", "inputs", "tensors", "unknown", "numbers"],
)
def test_swarms_are_refused(file, part):
    path = file(span(7, part * (3_000_000 // len(part))))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(UserError):
        read_onnx(path)
    assert time.perf_counter() - start < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def folded() -> OnnxFile:
    return read_onnx(DIRECTORY / "arcface_folded.onnx")


def changed(file: OnnxFile, index: int, **changes) -> OnnxFile:
    """The graph with another node at `index`."""
    nodes = list(file.nodes)
    own = nodes[index]
    nodes[index] = Node(**{**{key: getattr(own, key) for key in ("op_type", "inputs", "outputs", "attributes")}, **changes})
    return OnnxFile(file.initialisers, tuple(nodes), file.inputs, file.outputs)


def test_other_graphs_are_refused():
    file = folded()
    wrong = [
        (changed(file, 0, op_type="Sub"), "Sub where Conv should be"),
        (changed(file, 1, op_type="Relu"), "Relu where PRelu should be"),
        (changed(file, 2, attributes={"epsilon": 1e-3}), "epsilon"),
        (changed(file, 3, attributes={"strides": [2, 2], "pads": [1] * 4}), "strides"),
        (changed(file, 3, attributes={"pads": [1] * 4, "group": 8}), "group"),
        (changed(file, 3, inputs=(*file.nodes[3].inputs[:1], "elsewhere")), "layer1.0.conv1.weight is not in it"),
        (changed(file, 7, inputs=file.nodes[7].inputs[:1]), "nothing where Add"),
        (changed(file, 7, outputs=file.nodes[0].outputs), "layer1.0|circle|twice"),
        (OnnxFile(file.initialisers, file.nodes, (), file.outputs), "inputs none"),
        (OnnxFile(file.initialisers, file.nodes[:-1], file.inputs, file.outputs), "nothing where BatchNormalization"),
        (OnnxFile({}, file.nodes, file.inputs, file.outputs), "conv1.weight is not in it"),
    ]
    for graph, match in wrong:
        with pytest.raises(UserError, match=match):
            arcface_state(graph, "file.onnx")


def test_constants_copies_and_transposed_matrices():
    """As other exporters write them."""
    file = folded()
    expected = arcface_state(file)
    gemm = file.nodes[-2]
    arrays = dict(file.initialisers)
    weight = arrays.pop(gemm.inputs[1])
    arrays[gemm.inputs[1]] = weight.map(np.transpose, weight.shape[::-1])
    graph = changed(OnnxFile(arrays, file.nodes, file.inputs, file.outputs), -2, attributes={})
    slope = file.nodes[1].inputs[1]
    constant = Node("Constant", (), ("slope",), {"value": arrays.pop(slope)})
    graph = changed(graph, 1, inputs=(file.nodes[1].inputs[0], "copy"))
    nodes = (constant, Node("Identity", ("slope",), ("copy",), {}), *graph.nodes)
    found = arcface_state(OnnxFile(arrays, nodes, file.inputs, file.outputs))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(array))
