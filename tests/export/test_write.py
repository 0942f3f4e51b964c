"""`champ-jax export`: what is wrong is said at once, and a folder is there whole or not at all."""

import hashlib
import json

import pytest

from champ_jax.cli.main import main
from champ_jax.export import write
from champ_jax.export.graphs import choose_shapes
from champ_jax.export.write import write_export
from tests.infer.tiny import save_tiny


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "onxx"], "--format is 'onxx', did you mean 'onnx'?: give stablehlo, onnx, tensorrt"),
        (["--format", "onnx", "--precision", "fp16"], "--precision is 'fp16': onnx has f32, f16, int8"),
        (["--format", "tensorrt", "--precision", "int8"], "tensorrt has f32, f16; TensorRT's int8 wants activations quantised too"),
        (["--format", "onnx", "--size", "96x"], "--size is '96x'"),
        (["--format", "onnx"], "nowhere"),
    ],
)
def test_wrong_wishes(tmp_path, capsys, options, message):
    assert main(["export", "--checkpoint", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("dear")
    assert main(["export", "--checkpoint", "nowhere", "--format", "stablehlo", "--out", str(tmp_path)]) == 2
    assert "letter.txt: give an empty or new folder" in capsys.readouterr().err


def test_sizes_are_checked_before_graphs_are_made(tmp_path, capsys):
    save_tiny(tmp_path / "model")
    arguments = ["export", "--checkpoint", str(tmp_path / "model"), "--format", "stablehlo", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--size", "30x32"]) == 2
    assert "multiples of 4" in capsys.readouterr().err
    assert main([*arguments, "--frames", "99"]) == 2
    assert "--frames is 99" in capsys.readouterr().err


def test_the_manifest_knows_every_file(tmp_path, plain):
    write_export(plain, tmp_path / "out", "stablehlo", "f32", choose_shapes(plain))
    about = json.loads((tmp_path / "out" / "manifest.json").read_text())
    there = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert there == {*about["files"], "manifest.json"}
    for name, digest in about["files"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert about["precision"] == "f32" and about["graphs"]["denoise"]["inputs"]["latents"] == {"shape": [1, 4, 8, 8, 4], "dtype": "float32"}


def test_a_failure_leaves_nothing(tmp_path, plain, monkeypatch):
    def fail(folder, graphs, precision):
        (folder / "half").write_text("x")
        raise OSError("no space left")

    monkeypatch.setitem(write.WRITERS, "stablehlo", fail)
    with pytest.raises(write.UserError, match="no space left"):
        write_export(plain, tmp_path / "out", "stablehlo", "f32", choose_shapes(plain))
    assert list(tmp_path.iterdir()) == []
