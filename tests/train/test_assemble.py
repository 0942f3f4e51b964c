"""The model of a run: which networks it has, and where their first parameters come from."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from champ_jax.checkpoint.weights import save_weights
from champ_jax.data.records import open_records
from champ_jax.errors import UserError
from champ_jax.train.assemble import _of_faces, assemble
from tests.train.conftest import UNET


def assembled(config):
    return assemble(config, open_records(config.data.directory, config.data.split))


def assert_twins(params):
    """Every parameter of the reference network is the denoiser's."""
    jax.tree.map(np.testing.assert_array_equal, params["reference"], {n: params["denoiser"][n] for n in params["reference"]})


def test_reference_starts_as_a_copy_of_the_denoiser(small, tmp_path):
    first = assembled(small("B"))
    assert_twins(first.params)
    given = jax.tree.map(lambda x: x + 1, {name: first.params[name] for name in ("denoiser", "vae")})
    described = {name: first.described[name] for name in ("unet", "vae")}
    config = small("B").unlock()
    config.init_from = str(save_weights(tmp_path / "given", given, described))
    second = assembled(config)
    np.testing.assert_array_equal(second.params["denoiser"]["conv_in"]["kernel"], given["denoiser"]["conv_in"]["kernel"])
    assert_twins(second.params)


@pytest.mark.parametrize(("path", "value"), [("unet.heads", 4), ("vae.scaling", 2.0), ("schedule.prediction", "x0")])
def test_what_weights_say_of_themselves_cannot_be_changed(path, value, small, tmp_path):
    """None of these changes a shape, so nothing else would notice."""
    first = assembled(small("B"))
    config = small("B").unlock()
    config.init_from = str(save_weights(tmp_path / "given", first.params, first.described))
    assembled(config)
    group, name = path.split(".")
    config.model = {group: {name: value}}
    with pytest.raises(UserError, match=f"config.model.{path} is"):
        assembled(config)


def test_a_model_that_never_sees_the_photo(small):
    config = small("B", "demo_b:no_reference").unlock()
    config.model = {"kinds": ("dwpose",), "unet": UNET, "reference": False,
                    "guidance": {"channels": (8,), "patch": 4, "attention": False}}  # fmt: skip
    assert set(assembled(config).params) == {"denoiser", "guidance", "vae"}


def test_a_forgotten_clip_is_asked_for(small):
    """Without it the model would be trained with no image token, which nobody sees in a loss."""
    config = small("B").unlock()
    del config.model["clip"]
    with pytest.raises(UserError, match="config.init.clip"):
        assembled(config)


def test_single_networks_from_elsewhere(small, tmp_path):
    """`init` takes the place of what `init_from` has, and stands in for it where there is none."""
    first = assembled(small("B"))
    changed = jax.tree.map(lambda x: x + 1, {"vae": first.params["vae"], "reference": first.params["reference"]})
    given = str(save_weights(tmp_path / "given", changed, {name: first.described[name] for name in ("vae", "unet")}))
    config = small("B").unlock()
    config.init = {"vae": given, "reference": given, "denoiser": ""}
    second = assembled(config)
    jax.tree.map(np.testing.assert_array_equal, second.params["vae"], changed["vae"])
    jax.tree.map(np.testing.assert_array_equal, second.params["reference"], changed["reference"])
    config.init_from = ""
    third = assembled(config)
    jax.tree.map(np.testing.assert_array_equal, third.params["vae"], changed["vae"])
    config.init = {"clip": given}
    with pytest.raises(UserError, match="has no clip"):
        assembled(config)


def test_width_of_the_faces():
    """A new network takes the records'; one that has weights keeps its own, and records without faces show it none."""
    records = lambda width: SimpleNamespace(infos=[SimpleNamespace(face_dim=width), SimpleNamespace(face_dim=0)])  # noqa: E731
    assert _of_faces({"layers": 0}, records(128)) == {"layers": 0, "embedding": 128}
    assert _of_faces({"embedding": 512}, records(0)) == {"embedding": 512}
    with pytest.raises(UserError, match="these records have none"):
        _of_faces({}, records(0))
    with pytest.raises(UserError, match="of 512 numbers, and the records have 128"):
        _of_faces({"embedding": 512}, records(128))
