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
from champ_jax.errors import UserError
from champ_jax.evaluate.networks import Component, Networks
from champ_jax.models.animator import merge, split
from champ_jax.models.dino import DINO, DINOConfig
from champ_jax.models.raft import RAFT, RAFTConfig
from champ_jax.nn.keys import ParamKeys
from tests.parity.formats import materialise
from tests.seeded import seeded, seeded_state

RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "torch"
FORMATS = {"raft": flow.RAFT, "dino": dino.DINO}


@functools.cache
def recorded(name):
    with np.load(RECORDED / f"{name}.npz") as file:
        return dict(file)


@functools.cache
def state(name):
    shapes = {key: tuple(shape) for key, shape in json.loads(str(recorded(name)["shapes"])).items()}
    weights = seeded_state(shapes)
    if name == "raft":
        weights = {key: value * np.float32(0.2) if "flow_head.conv2" in key else value for key, value in weights.items()}
    return {key: LazyArray(value.shape, value.dtype, lambda value=value: value) for key, value in weights.items()}


@functools.cache
def loaded(name):
    weights = read(state(name), {}, FORMATS[name], name)
    return weights.config[name], materialise(weights.params[name])


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


@pytest.mark.parametrize("name", FORMATS)
def test_every_name_is_accounted_for(name):
    format, whole = FORMATS[name], state(name)
    assert format.matches({key: value.shape for key, value in whole.items()})
    weights = read(whole, {}, format, name)
    assert len(weights.kept) == sum("downsample.1" in key or "num_batches" in key for key in whole)
    lost = next(key for key in reversed(whole) if key.endswith("weight") and key not in format.signature and "downsample.1" not in key)
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
