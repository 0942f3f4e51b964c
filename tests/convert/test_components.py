"""Models put together from checkpoints of different kinds, and the single networks of a run's configuration."""

import json

import jax
import numpy as np
import pytest

from champ_jax.checkpoint.weights import load_weights
from champ_jax.convert import export_checkpoint, import_checkpoint
from champ_jax.convert.components import gather
from champ_jax.errors import UserError
from champ_jax.infer.pipeline import load_pipeline
from tests.infer.tiny import save_tiny, tiny_config, tiny_params

KINDS = ("champ", "sd-unet", "sd-vae", "animatediff", "motion-adapter")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny model and its parts in the formats of other programs."""
    root = tmp_path_factory.mktemp("exported")
    save_tiny(root / "ours")
    for kind in KINDS:
        export_checkpoint(root / "ours", kind, root / kind)
    return root


def test_a_model_of_checkpoints_of_other_programs(exported):
    """CHAMP's folder and a VAE of diffusers are the model that they were made from, in numbers and in geometry."""
    params, config = gather(exported / "champ", {"vae": exported / "sd-vae"})
    given, described = load_weights(exported / "ours")
    jax.tree.map(np.testing.assert_array_equal, params, given)
    ours = tiny_config()
    built = type(ours).build(config)
    assert (built.unet, built.guidance, built.kinds) == (ours.unet, ours.guidance, ours.kinds)
    assert built.vae == ours.vae
    pipeline = load_pipeline(exported / "champ", vae=exported / "sd-vae")
    assert pipeline.config.unet == ours.unet


def test_geometry_that_no_shape_shows_travels_in_the_header(exported):
    """Heads and norm groups of a tiny model; a .pt file, which cannot say them, is refused."""
    assert import_checkpoint(exported / "champ").config["unet"]["heads"] == 4
    assert json.loads((exported / "sd-unet" / "config.json").read_text())["attention_head_dim"] == 4
    with pytest.raises(UserError, match='"heads": 4.*write safetensors'):
        export_checkpoint(exported / "ours", "champ", exported / "pt", "pt")
    export_checkpoint(exported / "ours", "sd-unet", exported / "pt-unet", "pt")  # its config.json says it


def test_single_networks_take_the_place_of_the_models_own(exported, tmp_path):
    """A denoiser for images leaves the temporal modules; motion modules leave the rest."""
    other = tiny_params(tiny_config(), seed=1)
    from champ_jax.checkpoint.weights import save_weights

    save_weights(tmp_path / "other", other, load_weights(exported / "ours")[1])
    own = load_weights(exported / "ours")[0]
    params, _ = gather(tmp_path / "other", {"denoiser": exported / "sd-unet"})
    np.testing.assert_array_equal(params["denoiser"]["conv_in"]["kernel"], own["denoiser"]["conv_in"]["kernel"])
    module = params["denoiser"]["down_0"]["temporal_0"]["proj_in"]["kernel"]
    np.testing.assert_array_equal(module, other["denoiser"]["down_0"]["temporal_0"]["proj_in"]["kernel"])
    params, _ = gather(tmp_path / "other", {"motion": exported / "motion-adapter", "reference": exported / "sd-unet"})
    module = params["denoiser"]["down_0"]["temporal_0"]["proj_in"]["kernel"]
    np.testing.assert_array_equal(module, own["denoiser"]["down_0"]["temporal_0"]["proj_in"]["kernel"])
    np.testing.assert_array_equal(params["denoiser"]["conv_in"]["kernel"], other["denoiser"]["conv_in"]["kernel"])
    np.testing.assert_array_equal(params["reference"]["conv_in"]["kernel"], own["denoiser"]["conv_in"]["kernel"])
    assert "conv_out" not in params["reference"]
    jax.tree.map(np.testing.assert_array_equal, params["vae"], other["vae"])


def test_what_cannot_be_put_together(exported):
    with pytest.raises(UserError, match="has no clip"):
        gather(exported / "ours", {"clip": exported / "sd-unet"})
    with pytest.raises(UserError, match="did you mean 'denoiser'"):
        gather(None, {"denoisr": exported / "sd-unet"})
    with pytest.raises(UserError, match="no such file"):
        gather(None, {"vae": "nowhere/vae.pth"})
