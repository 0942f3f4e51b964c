"""ModelScope's temporal layers and its whole UNet against diffusers' classes, and its files."""

import jax
import numpy as np
import pytest

from champ_jax.convert.formats import find, read
from champ_jax.convert.mapping import Layout, abstract, their_shapes, to_ours
from champ_jax.convert.modelscope import MODELSCOPE, TEMPORAL_RULES
from champ_jax.convert.motion import split_temporal
from champ_jax.models.animator import merge, split
from champ_jax.models.temporal import TemporalConfig
from champ_jax.models.temporal_modelscope import TemporalConv, TemporalTransformer
from champ_jax.models.unet import UNet, UNetConfig
from champ_jax.nn.keys import ParamKeys
from champ_jax.nn.policy import Policy
from tests.parity.formats import check_accounting, check_round_trip, filled, run
from tests.recorded import recorded
from tests.seeded import seeded, seeded_state

BATCH, FRAMES = 2, 3
LAYERS = {
    "modelscope_conv": ("down_0/temporal_conv_0", lambda: TemporalConv(32, 32, ParamKeys(0), Policy())),
    "modelscope_transformer": ("down_0/temporal_0", lambda: TemporalTransformer(32, 4, 12, 32, 4, ParamKeys(0), Policy())),
}
WHOLE = ("modelscope", "modelscope_shallow")


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, compare):
    shapes, outputs = recorded(name)
    path, build = LAYERS[name]
    level, part = path.split("/")
    prefix = Layout(TEMPORAL_RULES).name(f"{path}/x").removesuffix("x")
    state = {prefix + key: array for key, array in seeded_state(shapes).items()}
    graphdef, params = split(build())
    nested = {level: {part: params}}
    assert their_shapes(nested, Layout(TEMPORAL_RULES)) == {prefix + key: shape for key, shape in shapes.items()}
    module = merge(graphdef, jax.tree.map(np.asarray, to_ours(state, nested, Layout(TEMPORAL_RULES)))[level][part])
    x = np.moveaxis(seeded("x", (BATCH * FRAMES, 32, 4, 5)), 1, -1)
    compare(name, run(module, lambda module, x: module(x, BATCH), x), np.moveaxis(outputs["out"], 1, -1))


@pytest.mark.parametrize("name", WHOLE)
def test_unet(name, compare):
    shapes, outputs = recorded(name)
    weights = read(seeded_state(shapes), {}, MODELSCOPE, "the file")
    config = weights.config["unet"]
    unet = filled(UNet, UNetConfig(**{**config, "temporal": TemporalConfig(**config["temporal"])}), find(weights.params, "denoiser"))
    latents = np.moveaxis(seeded("latents", (BATCH, 4, FRAMES, 7, 10)), 1, -1)
    args = (latents, np.array([7, 903]), seeded("context", (BATCH, 5, 24)))
    compare(name, run(unet, lambda unet, *args: unet(*args), *args), np.moveaxis(outputs["out"], 1, -1))


@pytest.mark.parametrize("name", WHOLE)
def test_file(name):
    state = seeded_state(recorded(name)[0])
    assert not check_round_trip(state, MODELSCOPE).kept
    check_accounting(state, MODELSCOPE, "up_blocks.0.temp_convs.1.conv3.3.weight")
    check_accounting(state, MODELSCOPE, "mid_block.attentions.0.proj_in.weight")


def test_full_size():
    """diffusers' default geometry, ModelScope's 1.7b without its text encoder and VAE, has this many parameters."""
    temporal = TemporalConfig("modelscope", head_dim=64)
    spatial, temporal = split_temporal(abstract(UNet, UNetConfig(head_dim=64, context_dim=1024, temporal=temporal)))
    spatial, temporal = jax.tree.leaves(spatial), jax.tree.leaves(temporal)
    assert sum(leaf.size for leaf in temporal) == 545_323_136
    assert sum(leaf.size for leaf in temporal + spatial) == 1_411_233_860
    assert len(temporal + spatial) == 1480
