"""RAFT against torchvision's and DINO against transformers', with seeded weights; what they read, and what they refuse.

The recorded outputs are made by tests/fixtures/make_flow.py.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from champ_jax.checkpoint.tensors import LazyArray
from champ_jax.convert import dino, flow
from champ_jax.convert.formats import read
from champ_jax.convert.kinds import KINDS, of_shapes
from champ_jax.errors import UserError
from champ_jax.evaluate.networks import Component, Networks
from champ_jax.models.animator import merge, split
from champ_jax.models.dino import DINO, DINOConfig
from champ_jax.models.raft import RAFT, RAFTConfig
from champ_jax.nn.keys import ParamKeys
from tests.parity.formats import materialise
from tests.seeded import seeded, seeded_state

RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "torch"
FORMATS = {"raft": flow.RAFT, "dino": dino.DINO, "vit": dino.VIT}


@functools.cache
def recorded(name):
    with np.load(RECORDED / f"{name}.npz") as file:
        return dict(file)


@functools.cache
def state(name):
    if name == "vit":
        return vit_state()
    shapes = {key: tuple(shape) for key, shape in json.loads(str(recorded(name)["shapes"])).items()}
    weights = seeded_state(shapes)
    if name == "raft":
        weights = {key: value * np.float32(0.2) if "flow_head.conv2" in key else value for key, value in weights.items()}
    return {key: LazyArray(value.shape, value.dtype, lambda value=value: value) for key, value in weights.items()}


def vit_state():
    """DINO's seeded weights under transformers' names, and a pooler."""
    shapes, names = (json.loads(str(recorded("dino")[f"vit/{key}"])) for key in ("shapes", "names"))
    found = {key: np.zeros(shape, np.float32) for key, shape in shapes.items() if key.startswith("pooler.")}
    for key, others in names.items():
        found |= zip(others, np.split(np.asarray(state("dino")[key]), len(others)))
    assert {key: list(value.shape) for key, value in found.items()} == shapes
    return {key: LazyArray(found[key].shape, found[key].dtype, lambda value=found[key]: value) for key in shapes}


def loaded(name, file_config=None):
    weights = read(state(name), file_config or {}, FORMATS[name], name)
    ((component, params),) = weights.params.items()
    return weights.config[component], materialise(params)


def run(model, config, params, function, *inputs):
    graphdef, _ = split(nnx.eval_shape(lambda: model(config, ParamKeys(0))))
    return jax.jit(lambda params, *inputs: function(merge(graphdef, params), *inputs))(params, *inputs)


def test_raft(compare):
    config, params = loaded("raft")
    images = [np.tanh(seeded(f"raft/{which}", (1, 136, 128, 3))) for which in ("first", "second")]
    found = run(RAFT, RAFTConfig(**config), params, lambda model, one, other: model(one, other, 3), *images)
    compare("raft/flow", found, recorded("raft")["flow"])


def test_raft_refuses_other_sizes_and_the_metric_pads():
    for shape in ((1, 120, 128, 3), (1, 130, 128, 3)):
        with pytest.raises(UserError, match="8 divides"):
            jax.eval_shape(lambda x: RAFT(RAFTConfig(), ParamKeys(0))(x, x), jnp.zeros(shape))
    config, params = loaded("raft")
    networks = Networks()
    networks.components["raft"] = Component(config, params, "raft.pth", "0" * 64)
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 90, 131, 3), np.uint8)
    assert networks["raft"].call(*frames).shape == (1, 90, 131, 2)


def test_dino(compare):
    config, params = loaded("dino")
    token = run(DINO, DINOConfig(**config), params, DINO.__call__, seeded("dino/pixels", (2, 48, 48, 3)))
    compare("dino/token", token, recorded("dino")["token"])
    with pytest.raises(UserError, match="48"):
        jax.eval_shape(lambda: DINO(DINOConfig(**config), ParamKeys(0))(jnp.zeros((1, 40, 48, 3))))


def test_dino_of_transformers(compare):
    """The same tower under other names, with the epsilon that its config.json says."""
    pixels = seeded("dino/pixels", (2, 48, 48, 3))
    config, params = loaded("vit")
    assert config["epsilon"] == 1e-6
    compare("dino/token, transformers", run(DINO, DINOConfig(**config), params, DINO.__call__, pixels), recorded("dino")["token"])
    said = json.loads(str(recorded("dino")["vit/config"]))
    config, params = loaded("vit", said)
    compare("dino/token, large epsilon", run(DINO, DINOConfig(**config), params, DINO.__call__, pixels), recorded("dino")["vit/coarse"])
    wrong = {"num_attention_heads": 4, "layer_norm_eps": "small", "hidden_act": "relu", "qkv_bias": False, "model_type": "dinov2"}
    for key, value in wrong.items():
        with pytest.raises(UserError, match=str(value)):
            loaded("vit", said | {key: value})


@pytest.mark.parametrize("name", FORMATS)
def test_every_name_is_accounted_for(name):
    format, whole = FORMATS[name], state(name)
    shapes = {key: value.shape for key, value in whole.items()}
    assert format.matches(shapes) and KINDS[of_shapes(shapes)].format is format
    weights = read(whole, {}, format, name)
    aside = [key for key in whole if any(part in key for part in ("downsample.1", "num_batches", "pooler."))]
    assert sorted(weights.kept) == sorted(aside) and weights.reasons.keys() == set(aside)
    lost = next(key for key in reversed(whole) if key.endswith("weight") and key not in (*format.signature, *aside))
    for wrong in (
        {key: value for key, value in whole.items() if key != lost},
        {key.replace(lost, f"{lost}_other"): value for key, value in whole.items()},
        whole | {lost: LazyArray((7, 7), np.dtype(np.float32), lambda: np.zeros((7, 7)))},
    ):
        with pytest.raises(UserError, match=lost.replace(".", r"\.")):
            read(wrong, {}, format, name)


def test_released_geometry():
    shapes = jax.eval_shape(lambda: DINO(DINOConfig(), ParamKeys(0))(jnp.zeros((2, 224, 224, 3))))
    assert shapes.shape == (2, 768)
    count = sum(leaf.size for leaf in jax.tree.leaves(split(nnx.eval_shape(lambda: DINO(DINOConfig(), ParamKeys(0))))[1]))
    assert count == 85_798_656, "ViT-B/16 without a head"
    count = sum(leaf.size for leaf in jax.tree.leaves(split(nnx.eval_shape(lambda: RAFT(RAFTConfig(), ParamKeys(0))))[1]))
    # 5,257,536 trained ones, as published, and the statistics of the context encoder's norms.
    assert count - 5_257_536 == 2 * sum((64, 64, 64, 64, 64, 96, 96, 96, 96, 96, 128, 128, 128, 128, 128))
