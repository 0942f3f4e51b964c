"""Reference features: returned by one network, taken by the other, paired by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.errors import UserError
from champ_jax.models.animator import merge, split
from champ_jax.models.reference import reference_features, round_like_champ
from champ_jax.models.unet import UNet
from champ_jax.nn.blocks import BlockFeatures
from champ_jax.nn.keys import ParamKeys
from tests.models.filled import filled
from tests.models.test_unet import TINY, inputs


@pytest.fixture(scope="module")
def networks():
    return tuple(filled(lambda: UNet(TINY, ParamKeys(0)), seed) for seed in (0, 1))


@pytest.fixture(scope="module")
def features(networks):
    latents, _, context = inputs()
    return jax.jit(lambda x, context: reference_features(networks[1], x, context))(latents[:, :1], context[:, None])


@pytest.fixture(scope="module")
def run(networks):
    return jax.jit(lambda *args: networks[0](*args))


def test_features_are_tokens_of_every_block(networks, features):
    assert features.keys() == networks[0].attention_blocks().keys()
    assert features["down_1/attention_0"].tokens.shape == (2, 1, 4, 16)


def test_projecting_once_changes_nothing(networks, features, run):
    latents, t, context = inputs()
    projected = networks[0].project_reference(features)
    assert projected["mid/attention_0"].keys.shape == (2, 1, 4, TINY.heads, 8)
    out = run(latents, t, context, None, projected)
    np.testing.assert_allclose(out, run(latents, t, context, None, features), atol=1e-5)


def test_the_unconditional_half_never_sees_the_reference(features, run):
    latents, t, context = inputs()
    mask = jnp.array([[0.0], [1.0]])
    plain, seen = run(latents, t, context), run(latents, t, context, None, features, mask)
    np.testing.assert_allclose(seen[0], plain[0], atol=1e-5)
    assert np.abs(seen[1] - plain[1]).max() > 1e-3
    other = jax.tree.map(lambda tokens: tokens.at[0].add(5.0), features)
    np.testing.assert_array_equal(run(latents, t, context, None, other, mask), seen)


def test_features_of_another_geometry_are_refused(networks, features):
    latents, t, context = inputs()
    fewer = {name: tokens for name, tokens in features.items() if name != "mid/attention_0"}
    with pytest.raises(UserError, match="mid/attention_0"):
        networks[0](latents, t, context, reference=fewer)


def test_work_after_the_last_block_is_dropped(networks):
    """The compiler finds that the features need neither the head nor what follows the last norm1."""
    latents, _, context = inputs()
    graphdef, params = split(networks[1])

    def flops(function):
        return jax.jit(function).lower(params).compile().cost_analysis()["flops"]

    whole = flops(lambda params: merge(graphdef, params)(latents[:, :1], 0, context))
    needed = flops(lambda params: reference_features(merge(graphdef, params), latents[:, :1], context[:, None]))
    assert needed < 0.7 * whole


def test_gradients_reach_the_reference_network(networks):
    latents, t, context = inputs()
    graphdef, params = split(networks[1])

    def loss(params):
        features = reference_features(merge(graphdef, params), latents[:, :1], context[:, None])
        return jnp.sum(networks[0](latents, t, context, reference=features) ** 2)

    gradient = jax.jit(jax.grad(loss))(params)
    assert np.any(gradient["conv_in"]["kernel"] != 0)
    assert not np.any(gradient["conv_out"]["kernel"])


def test_champs_rounding():
    rounded = round_like_champ({"mid/attention_0": BlockFeatures(jnp.array([1.0 + 2**-12, 0.5]), jnp.ones(2))})
    np.testing.assert_array_equal(rounded["mid/attention_0"].tokens, [1.0, 0.5])
    assert rounded["mid/attention_0"].tokens.dtype == jnp.float32
