"""The whole model: configuration, parameters as a plain dict, and CHAMP's size."""

import dataclasses

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.errors import UserError
from champ_jax.models.animator import AnimatorConfig, abstract_model, init_params, merge, split
from champ_jax.models.clip import CLIPConfig

TINY = {
    "unet": {
        "channels": [8],
        "attention_levels": [True],
        "layers": 1,
        "heads": 2,
        "groups": 4,
        "context_dim": None,
        "temporal": {"heads": 2, "groups": 4},
    },
    "guidance": {"channels": [4, 8], "out_channels": 8, "heads": 2, "groups": 4},
    "kinds": ["depth", "dwpose"],
    "vae": {"channels": [4, 4], "layers": 1, "groups": 2},
}


def leaves(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_full_size_is_champs():
    params = abstract_model(AnimatorConfig(clip=CLIPConfig()))[1]
    counts = {name: leaves(part) for name, part in params.items()}
    assert counts == {
        "denoiser": 859_520_964 + 453_209_280,
        "reference": 859_508_800,
        "guidance": 4 * 2_270_736,
        "vae": 83_653_863,
        "clip": 303_966_208,
    }
    assert tuple(params["guidance"]) == tuple(sorted(GUIDANCE_KINDS))


def test_plain_dict_and_config_dict_build_the_same():
    config = AnimatorConfig.build(TINY)
    assert config.unet.channels == (8,) and config.unet.temporal.heads == 2
    assert config.kinds == ("depth", "dwpose") and config.clip is None
    assert AnimatorConfig.build(ConfigDict(TINY)) == config
    assert AnimatorConfig.build(dataclasses.asdict(config)) == config
    levels = {"style": [0], "coarse": [0]}
    assert AnimatorConfig.build(TINY | {"unet": TINY["unet"] | levels}).unet.style == (0,)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"unte": {}}, "did you mean 'unet'"),
        ({"unet": {"chanels": (8,)}}, "did you mean 'channels'"),
        ({"unet": {"temporal": {"head": 8}}}, "model.unet.temporal has no field 'head'"),
        ({"kinds": ["depht"]}, "kinds: expected some of"),
        ({"guidance": {"out_channels": 16}}, "unet.channels"),
        ({"guidance": {"channels": (16, 256)}}, "same latent grid"),
        ({"vae": {"latent_channels": 8}}, "vae.latent_channels 8"),
        ({"clip": {"projection": 1024}}, "unet.context_dim 768"),
        ({"unet": {"heads": 0}}, "model.unet.heads is 0: expected int, numbers from 1"),
        ({"unet": {"channels": 320}}, "model.unet.channels is 320"),
        ({"unet": {"channels": [320, 0, 1280, 1280], "temporal": None}}, "model.unet.channels is .*, numbers from 1, such as"),
        ({"guidance": {"channels": [16, 0, 96, 256]}}, "model.guidance.channels is .*, numbers from 1, such as"),
        ({"unet": {"style": [-1]}}, "model.unet.style is .*, numbers from 0, such as"),
        ({"schedule": {"beta_start": float("nan")}}, "model.schedule.beta_start is nan: expected float, a finite number, such as"),
        ({"vae": {"scaling": float("inf")}}, "model.vae.scaling is inf"),
        ({"unet": {"temporal": {"clip_norm": "yes"}}}, "expected bool such as False"),
        ({"guidance": {"channels": ()}}, "guidance.channels is empty"),
        ({"clip": 1}, "model.clip is 1: expected CLIPConfig | None"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        AnimatorConfig.build(change)


def test_parameters_are_plain_and_come_back():
    config = AnimatorConfig.build(TINY)
    params, shapes = init_params(config, seed=3), abstract_model(config)[1]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    assert set(params) == {"denoiser", "reference", "guidance", "vae"}
    assert "temporal_0" in params["denoiser"]["down_0"] and "temporal_0" not in params["reference"]["down_0"]
    assert not np.any(params["denoiser"]["mid"]["temporal_0"]["proj_out"]["kernel"])

    model = merge(abstract_model(config)[0], params)
    assert model.clip is None and model.m2p is None
    graphdef, again = split(model)
    assert graphdef == abstract_model(config)[0]
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_seeds_differ_and_repeat():
    config = AnimatorConfig.build(TINY)
    a, b, c = (init_params(config, seed)["denoiser"]["conv_in"]["kernel"] for seed in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
