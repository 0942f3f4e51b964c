"""The UNet at full size (without memory) and at a tiny one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from champ_jax.errors import UserError
from champ_jax.models.animator import merge, split
from champ_jax.models.temporal import TemporalConfig
from champ_jax.models.unet import UNet, UNetConfig
from champ_jax.nn.keys import ParamKeys
from tests.models.filled import filled

TINY = UNetConfig(
    in_channels=3,
    out_channels=2,
    channels=(8, 16),
    attention_levels=(False, True),
    layers=1,
    heads=2,
    groups=4,
    context_dim=6,
    ff_mult=2,
)


def parameters(config):
    """Number of parameters by the name of the top-level part, and in all, without allocating any."""
    _, params = split(nnx.eval_shape(lambda: UNet(config, ParamKeys(0))))
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    return counts, sum(counts.values())


@pytest.fixture(scope="module")
def tiny():
    return filled(lambda: UNet(TINY, ParamKeys(0)))


@pytest.fixture(scope="module")
def run(tiny):
    return jax.jit(lambda *args: tiny(*args))


def inputs(batch=2, frames=2, size=(4, 4)):
    draw = np.random.default_rng(0).standard_normal
    latents = draw((batch, frames, *size, TINY.in_channels)).astype(np.float32)
    return latents, np.arange(batch) * 7, draw((batch, 1, TINY.context_dim)).astype(np.float32)


def test_full_size_is_stable_diffusions():
    counts, total = parameters(UNetConfig())
    assert total == 859_520_964
    assert counts["time_embedding"] == 2_050_560
    assert counts["down_2"] == 139_992_320
    assert counts["mid"] == 97_038_080
    assert counts["up_0"] == 162_241_280
    assert counts["up_3"] == 18_810_560


def test_full_size_reference_has_no_head():
    assert parameters(UNetConfig(head=False))[1] == 859_508_800


def test_full_size_temporal_modules():
    with_modules = parameters(UNetConfig(temporal=TemporalConfig()))[1]
    assert with_modules - 859_520_964 == 453_209_280


def test_shapes_and_scalar_timestep(run):
    latents, t, context = inputs()
    out = run(latents, t, context)
    assert out.shape == (2, 2, 4, 4, TINY.out_channels)
    np.testing.assert_allclose(run(latents, t[1], context)[1], out[1], atol=1e-5)


def test_odd_sizes_come_back(run):
    latents, t, context = inputs(batch=1, frames=1, size=(5, 7))
    assert run(latents, t, context).shape == (1, 1, 5, 7, TINY.out_channels)


def test_guidance_is_added_after_the_first_convolution(tiny, run):
    latents, t, context = inputs()
    guidance = np.zeros((2, 2, 4, 4, TINY.channels[0]), np.float32)
    np.testing.assert_allclose(run(latents, t, context, guidance), run(latents, t, context), atol=1e-5)
    assert np.abs(run(latents, t, context, guidance + 1) - run(latents, t, context)).max() > 1e-3


def test_wrong_shapes_are_named(tiny):
    latents, t, context = inputs()
    with pytest.raises(UserError, match=r"latents: expected \[B F h w 3\]"):
        tiny(latents[..., :2], t, context)
    with pytest.raises(UserError, match=r"guidance: .* h = 4"):
        tiny(latents, t, context, np.zeros((2, 2, 8, 8, 8)))
    with pytest.raises(UserError, match="context"):
        tiny(latents, t, context[:1])


def test_impossible_geometry_is_refused():
    with pytest.raises(UserError, match="equally many levels"):
        dataclasses.replace(TINY, attention_levels=(True,))
    with pytest.raises(UserError, match="3 heads"):
        dataclasses.replace(TINY, heads=3)
    with pytest.raises(UserError, match="temporal.groups 32"):
        dataclasses.replace(TINY, temporal=TemporalConfig(heads=2))


def test_remat_changes_no_gradient(tiny):
    latents, t, context = inputs(batch=1)
    _, params = split(tiny)

    def gradient(remat):
        graphdef, _ = split(nnx.eval_shape(lambda: UNet(dataclasses.replace(TINY, remat=remat), ParamKeys(0))))
        loss = jax.jit(jax.grad(lambda params: jnp.sum(merge(graphdef, params)(latents, t, context) ** 2)))
        return loss, loss(params)

    (kept, plain), (recomputed, again) = gradient(False), gradient(True)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert recomputed.lower(params).cost_analysis()["flops"] > 1.2 * kept.lower(params).cost_analysis()["flops"]


def test_names_of_parameters(tiny):
    _, params = split(tiny)
    assert set(params) == {"conv_in", "time_embedding", "down_0", "down_1", "mid", "up_0", "up_1", "norm_out", "conv_out"}
    assert params["down_1"]["attention_0"]["attn1"]["to_q"]["kernel"].shape == (16, 16)
    assert set(tiny.attention_blocks()) == {"down_1/attention_0", "mid/attention_0", "up_0/attention_0", "up_0/attention_1"}
