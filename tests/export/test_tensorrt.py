"""TensorRT: what can be known without it."""

import subprocess

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

from champ_jax.errors import UserError  # noqa: E402
from champ_jax.export.tensorrt import check_file, write_tensorrt  # noqa: E402


@pytest.fixture
def folder(tmp_path, graphs):
    write_tensorrt(tmp_path, list(graphs.values()), "f32")
    return tmp_path


def test_the_script_builds_every_graph(folder, graphs):
    text = (folder / "build.sh").read_text()
    subprocess.run(["bash", "-n", str(folder / "build.sh")], check=True)
    for name in graphs:
        assert f"--onnx={name}.onnx --saveEngine={name}.plan" in text
    done = subprocess.run([str(folder / "build.sh")], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "TRTEXEC": "no-such"})
    assert done.returncode == 2 and "error: there is no no-such" in done.stderr


def test_a_silent_failure_of_trtexec_is_told(tmp_path, graphs, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/trtexec").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "bin/trtexec").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(UserError, match="trtexec failed: exit code 3"):
        write_tensorrt(tmp_path, [graphs["clip"]], "f32")


def test_no_native_group_norm(folder):
    """TensorRT up to 10.16.1 is wrong in its own for a single group."""
    kinds = {node.op_type for path in folder.glob("*.onnx") for node in onnx.load(path).graph.node}
    assert not kinds & {"GroupNormalization", "InstanceNormalization"}


def save(path, nodes, inputs, outputs, kind=onnx.TensorProto.FLOAT):
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, given, [made], name=made) for op, given, made in nodes], "g",
        [info(name, kind, [2, 2]) for name in inputs], [info(name, kind, [2, 2]) for name in outputs],
    )  # fmt: skip
    onnx.save_model(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]), path)


def test_an_operator_that_it_does_not_have(tmp_path):
    save(tmp_path / "a.onnx", [("Det", ["x"], "d"), ("Add", ["x", "d"], "y")], ["x"], ["y"])
    with pytest.raises(UserError, match="a.onnx has Det, which TensorRT does not have"):
        check_file(tmp_path / "a.onnx")


def test_arithmetic_on_bytes(tmp_path):
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype("uint8"))
    save(tmp_path / "a.onnx", [("Add", ["x", "x"], "y")], ["x"], ["y"], kind)
    with pytest.raises(UserError, match="computes with uint8"):
        check_file(tmp_path / "a.onnx")
