"""Guidance encoders and their sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from champ_jax.errors import UserError
from champ_jax.models.animator import split
from champ_jax.models.guidance import GuidanceConfig, GuidanceEncoder, fuse_guidance
from champ_jax.nn.keys import ParamKeys
from tests.models.filled import filled

CONFIG = GuidanceConfig(channels=(4, 8), out_channels=6, heads=2, groups=4, ff_mult=2)


@pytest.fixture(scope="module")
def encoders():
    """Encoders that say 0..5 whatever they see."""
    made = {kind: filled(lambda: GuidanceEncoder(CONFIG, ParamKeys(0))) for kind in ("depth", "dwpose")}
    for encoder in made.values():
        encoder.conv_out.kernel[...] = jnp.zeros_like(encoder.conv_out.kernel[...])
        encoder.conv_out.bias[...] = jnp.arange(6.0)
    return made


@pytest.fixture(scope="module")
def maps():
    return {kind: jnp.full((2, 3, 4, 6, 3), 0.5) for kind in ("depth", "dwpose")}


def test_live_parameters_at_full_size():
    _, params = split(nnx.eval_shape(lambda: GuidanceEncoder(GuidanceConfig(), ParamKeys(0))))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 2_270_736


def test_shape_and_start_at_zero(maps):
    out = GuidanceEncoder(CONFIG, ParamKeys(0))(maps["depth"])
    assert out.shape == (2, 3, 2, 3, 6)
    assert not np.any(out)


def test_any_subset_is_summed(encoders, maps):
    one = fuse_guidance(encoders, {"depth": maps["depth"]})
    np.testing.assert_array_equal(one[0, 0, 0, 0], np.arange(6.0))
    np.testing.assert_array_equal(fuse_guidance(encoders, maps), 2 * one)
    assert fuse_guidance(encoders, {}) is None


def test_weights_are_per_sample_and_kind(encoders, maps):
    fused = fuse_guidance(encoders, maps, {"dwpose": jnp.array([0.0, 0.5])})
    np.testing.assert_allclose(fused[:, 0, 0, 0, 2], [2.0, 3.0])


def test_what_does_not_fit_is_named(encoders, maps):
    with pytest.raises(UserError, match=r"\['normal'\] given"):
        fuse_guidance(encoders, {"normal": maps["depth"]})
    with pytest.raises(UserError, match="multiples of 2"):
        encoders["depth"](jnp.zeros((1, 1, 5, 4, 3)))
    with pytest.raises(UserError, match=r"\[B F H W 3\]"):
        encoders["depth"](jnp.zeros((1, 5, 4, 3)))
