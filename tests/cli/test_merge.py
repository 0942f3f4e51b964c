"""Joining models: what comes from where, and that what does not fit is refused before anything is written."""

import jax
import numpy as np
import pytest

from champ_jax.checkpoint.weights import load_weights, save_weights
from champ_jax.cli.main import main
from champ_jax.export.quantise import quantise
from champ_jax.infer.pipeline import load_pipeline
from tests.infer.tiny import TINY_M2P, save_tiny, tiny_config


def test_m2p_of_one_model_joins_the_networks_of_another(tmp_path):
    params, described = load_weights(save_tiny(tmp_path / "whole", tiny_config(TINY_M2P), motion_fps=30.0))
    # As stage A leaves it: M2P alone, and a description of networks that it does not have.
    alone = {**described, "unet": {"channels": (320,)}, "pipeline": {"motion_fps": 30.0}}
    save_weights(tmp_path / "a", {"m2p": params.pop("m2p")}, alone)
    del described["m2p"]
    save_weights(tmp_path / "c", params, {**described, "pipeline": {"steps": 7}})
    sources = [str(tmp_path / name) for name in ("c", "a")]
    for order in (sources, sources[::-1]):
        assert main(["merge", *order, "--out", str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
        merged, config = load_weights(tmp_path / "out")
        assert config["pipeline"] == {"motion_fps": 30.0, "steps": 7} and "m2p" in merged
        assert merged["denoiser"]["conv_in"]["kernel"].dtype.name == "bfloat16"
        pipe = load_pipeline(tmp_path / "out")
        np.testing.assert_allclose(pipe.params["denoiser"]["conv_in"]["kernel"], params["denoiser"]["conv_in"]["kernel"], rtol=0.01)


def test_components_of_other_geometry_are_refused(tmp_path, capsys):
    save_tiny(tmp_path / "one")
    params, described = load_weights(tmp_path / "one")
    save_weights(tmp_path / "other", {"vae": {"conv": {"kernel": np.zeros((3, 3))}}}, {"vae": described["vae"]})
    assert main(["merge", str(tmp_path / "one"), str(tmp_path / "other"), "--out", str(tmp_path / "out")]) == 2
    assert "vae" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main(["merge", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_quantised_weights_are_stored_as_they_are_and_not_merged_or_converted(tmp_path, capsys, precision):
    params, described = load_weights(save_tiny(tmp_path / "one"))
    made = quantise(params, precision)
    save_weights(tmp_path / "q", made, described, "float16")
    found, _ = load_weights(tmp_path / "q")
    layer, own = (each["denoiser"]["mid"]["attention_0"]["attn1"]["to_q"]["kernel"] for each in (found, made))
    assert {name: x.dtype for name, x in layer.items()} == {name: x.dtype for name, x in own.items()}
    jax.tree.map(np.testing.assert_array_equal, layer, own)
    assert found["denoiser"]["conv_in"]["bias"].dtype == np.float16
    exporting = ["convert", "export", "--to", "champ", "--checkpoint", str(tmp_path / "q")]
    for command in (["merge", str(tmp_path / "one"), str(tmp_path / "q")], exporting):
        assert main([*command, "--out", str(tmp_path / "out")]) == 2
        told = capsys.readouterr().err
        assert f"{tmp_path / 'q'}: these weights are quantised" in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()
