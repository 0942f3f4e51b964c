"""Weights in component folders: round trip in every dtype, atomic writing, refusal of what is incomplete."""

import json
import os

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from champ_jax.checkpoint import weights
from champ_jax.checkpoint.weights import load_weights, save_weights
from champ_jax.errors import UserError

PARAMS = {
    "denoiser": {"down_0": {"conv": {"kernel": jnp.linspace(-1, 1, 24).reshape(2, 3, 4)}}, "count": jnp.int32(3)},
    "vae": {"bias": jnp.full((4,), 0.1)},
}
CONFIG = {"unet": {"channels": [8, 16]}, "vae": {"scaling": 0.18215}, "clip": None, "kinds": ["depth"]}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_round_trip(tmp_path, dtype):
    params, config = load_weights(save_weights(tmp_path / "model", PARAMS, CONFIG, dtype))
    assert config == CONFIG
    kernel = params["denoiser"]["down_0"]["conv"]["kernel"]
    assert kernel.dtype == weights.DTYPES[dtype]
    np.testing.assert_array_equal(kernel, np.asarray(PARAMS["denoiser"]["down_0"]["conv"]["kernel"], kernel.dtype))
    assert params["denoiser"]["count"].dtype == np.int32 and params["denoiser"]["count"] == 3
    assert params["vae"]["bias"].shape == (4,)


def test_one_folder_a_component(tmp_path):
    save_weights(tmp_path / "model", PARAMS, CONFIG)
    assert json.loads((tmp_path / "model/vae/config.json").read_text()) == CONFIG["vae"]
    assert sorted(path.parent.name for path in tmp_path.rglob("*.safetensors")) == ["denoiser", "vae"]


def test_an_older_model_is_replaced_whole(tmp_path):
    save_weights(tmp_path / "model", PARAMS, CONFIG)
    save_weights(tmp_path / "model", {"m2p": {"x": jnp.ones(2, ml_dtypes.bfloat16)}}, {})
    assert list(load_weights(tmp_path / "model")[0]) == ["m2p"]
    assert os.listdir(tmp_path) == ["model"]


def test_failing_while_writing_leaves_the_older_model(tmp_path, monkeypatch):
    save_weights(tmp_path / "model", PARAMS, CONFIG)

    def no_room(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "write_safetensors", no_room)
    with pytest.raises(UserError, match="No space left"):
        save_weights(tmp_path / "model", {"vae": {"bias": jnp.zeros(4)}}, {})
    assert load_weights(tmp_path / "model")[1] == CONFIG
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_with_other_files_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        save_weights(tmp_path, PARAMS, CONFIG)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no config.json"):
        load_weights(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_weights(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="'components' and 'config' are expected"):
        load_weights(tmp_path)


def test_missing_component_truncated_file_and_lost_array(tmp_path):
    folder = save_weights(tmp_path / "model", PARAMS, CONFIG)
    path = folder / "vae" / "model.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-3])
    with pytest.raises(UserError, match="vae/model.safetensors cannot be read as safetensors"):
        load_weights(folder)
    path.write_bytes((folder / "denoiser" / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="holds 2 arrays, 1 are expected"):
        load_weights(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"components \['denoiser', 'vae'\] and holds \['denoiser'\]"):
        load_weights(folder)
