"""Guidance encoders, and how what they say comes together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from champ_jax.errors import UserError
from champ_jax.models.animator import split
from champ_jax.models.guidance import Fusion, GuidanceConfig, GuidanceEncoder, fuse_guidance
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


def fused(fusion, encoders, maps, weights=None):
    return np.asarray(jax.jit(lambda maps, weights: fuse_guidance(encoders, maps, weights, fusion))(maps, weights))


@pytest.fixture(scope="module")
def trained():
    """(encoders that differ, a fusion whose last layer is no longer zero, maps that differ)."""
    config = dataclasses.replace(CONFIG, fusion="attention", out_channels=8, heads=2)
    kinds = ("depth", "normal", "dwpose")
    encoders = {kind: filled(lambda: GuidanceEncoder(config, ParamKeys(0)), i) for i, kind in enumerate(kinds)}
    draw = np.random.default_rng(0).random
    return encoders, filled(lambda: Fusion(config, kinds, ParamKeys(0)), 5), {kind: draw((2, 3, 4, 6, 3), np.float32) for kind in kinds}


def test_fusion_adds_nothing_at_first_and_something_later(trained):
    encoders, fusion, maps = trained
    config = dataclasses.replace(CONFIG, fusion="attention", out_channels=8, heads=2)
    new = Fusion(config, tuple(maps), ParamKeys(0))
    np.testing.assert_array_equal(fused(new, encoders, maps), fused(None, encoders, maps))
    assert np.abs(fused(fusion, encoders, maps) - fused(None, encoders, maps)).max() > 1e-2


@pytest.mark.parametrize("with_fusion", [False, True])
def test_the_order_of_kinds_says_nothing(trained, with_fusion):
    encoders, fusion, maps = trained
    fusion = fusion if with_fusion else None
    backwards = dict(reversed(maps.items()))
    np.testing.assert_array_equal(fused(fusion, encoders, backwards), fused(fusion, encoders, maps))


def test_a_dropped_kind_is_as_if_it_were_not_there(trained):
    encoders, fusion, maps = trained
    subset = {kind: maps[kind] for kind in ("depth", "dwpose")}
    weights = {"normal": np.zeros((2, 3), np.float32), "depth": np.ones(2, np.float32)}
    np.testing.assert_allclose(fused(fusion, encoders, maps, weights), fused(fusion, encoders, subset), atol=1e-5)
    nothing = {kind: np.zeros(2, np.float32) for kind in maps}
    assert np.all(np.isfinite(fused(fusion, encoders, maps, nothing)))


def test_gates_start_as_the_sum(maps):
    config = dataclasses.replace(CONFIG, fusion="gates")
    encoders = {kind: GuidanceEncoder(config, ParamKeys(0)) for kind in maps}
    assert encoders["depth"].gate.shape == (CONFIG.out_channels,) and np.all(encoders["depth"].gate[...] == 1)
    for encoder in encoders.values():
        encoder.conv_out.bias[...] = jnp.ones(CONFIG.out_channels)
    np.testing.assert_array_equal(fuse_guidance(encoders, maps), 2 * np.ones((2, 3, 2, 3, CONFIG.out_channels)))
    encoders["depth"].gate[...] = jnp.zeros(CONFIG.out_channels)
    np.testing.assert_array_equal(fuse_guidance(encoders, maps), np.ones((2, 3, 2, 3, CONFIG.out_channels)))


def test_music_joins_the_skeleton(trained):
    encoders, _, maps = trained
    half = np.full((2, 3), 0.5, np.float32)
    mixed = fuse_guidance(encoders, {"dwpose": maps["dwpose"]}, {"dwpose": half}, None, (maps["dwpose"], half))
    np.testing.assert_allclose(mixed, fuse_guidance(encoders, {"dwpose": maps["dwpose"]}), atol=1e-5)


def test_unlearned_maps_are_shrunk_and_nothing_else(maps):
    config = dataclasses.replace(CONFIG, learned=False)
    encoder = GuidanceEncoder(config, ParamKeys(0))
    assert not jax.tree.leaves(split(encoder)[1])
    x = np.random.default_rng(0).random((1, 1, 4, 6, 3)).astype(np.float32)
    out = np.asarray(encoder(x))
    assert out.shape == (1, 1, 2, 3, 6)
    np.testing.assert_allclose(out[0, 0, 1, 2, :3], x[0, 0, 2:, 4:].mean((0, 1)), rtol=1e-6)
    np.testing.assert_array_equal(out[..., 3:], out[..., :3])
    with pytest.raises(UserError, match="leave it out with guidance.learned=False"):
        dataclasses.replace(config, fusion="gates")
