"""Temporal modules: nothing at first, then attention over frames of each position alone."""

import dataclasses

import jax
import numpy as np
import pytest

from champ_jax.errors import UserError
from champ_jax.models.animator import merge, split
from champ_jax.models.temporal import TemporalConfig, TemporalModule, frame_positions
from champ_jax.models.unet import UNet, UNetConfig
from champ_jax.models.unet_config import TEMPORAL_KINDS
from champ_jax.nn.attention import rotate
from champ_jax.nn.keys import ParamKeys
from champ_jax.nn.policy import Policy
from tests.models.filled import filled
from tests.parallel.test_mesh import on_devices

B, F, C = 2, 3, 8
CONFIG = TemporalConfig(heads=2, groups=4, max_frames=4, ff_mult=2)


@pytest.fixture(scope="module")
def module():
    return TemporalModule(C, CONFIG, ParamKeys(0), Policy())


@pytest.fixture(scope="module")
def trained():
    """A module whose last layer is no longer zero."""
    return filled(lambda: TemporalModule(C, CONFIG, ParamKeys(0), Policy()))


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(0), (B * F, 2, 2, C))


def test_a_new_module_passes_its_input_on(module, x):
    np.testing.assert_array_equal(module(x, batch=B), x)


def test_positions_see_only_their_own_clip_and_place(trained, x):
    # The norm is of a whole frame: swapping two places of one frame leaves its statistics, and all other places, alone.
    swapped = x.at[1, 0, 0].set(x[1, 0, 1]).at[1, 0, 1].set(x[1, 0, 0])
    change = np.abs(trained(swapped, batch=B) - trained(x, batch=B)).max(-1)
    assert np.all(change[:F, 0] > 1e-4)
    assert np.all(change[:F, 1] < 1e-5)
    assert np.all(change[F:] == 0)


def test_the_order_of_frames_matters(trained, x):
    clip = x[:F]
    forwards, backwards = trained(clip, batch=1), trained(clip[::-1], batch=1)[::-1]
    assert np.abs(forwards - backwards).max() > 1e-3


def test_positions():
    """Width 4: sine and cosine of p, then of p / 100."""
    expected = [np.sin(2.0), np.cos(2.0), np.sin(0.02), np.cos(0.02)]
    np.testing.assert_allclose(frame_positions(3, 4)[2], expected, atol=1e-6)


def test_too_long_a_window_is_refused(module, x):
    with pytest.raises(UserError, match="6 frames, but this model reaches 4"):
        module(x, batch=1)


GEOMETRY = {kind: TemporalConfig(kind, heads=2, groups=4, ff_mult=2) for kind in TEMPORAL_KINDS}
UNET = UNetConfig(channels=(8, 16), attention_levels=(False, True), layers=1, heads=2, groups=4, context_dim=6, ff_mult=2)


def clip_of(frames):
    draw = np.random.default_rng(0).standard_normal
    return draw((1, frames, 6, 8, 4)).astype(np.float32), np.array([500]), draw((1, 1, 6)).astype(np.float32)


@pytest.mark.parametrize("kind", TEMPORAL_KINDS)
def test_a_new_backbone_leaves_the_unet_as_it_was(kind):
    """Not compiled: the compiler orders the sums of two programs differently."""
    unet = UNet(dataclasses.replace(UNET, temporal=GEOMETRY[kind]), ParamKeys(0))
    with_it, without = unet(*clip_of(3)), unet(*clip_of(3), temporal=False)
    np.testing.assert_allclose(with_it, without, atol=1e-6)


@pytest.mark.parametrize("kind", TEMPORAL_KINDS)
def test_a_trained_backbone_joins_the_frames_of_a_clip(kind):
    graphdef, params = split(filled(lambda: UNet(dataclasses.replace(UNET, temporal=GEOMETRY[kind]), ParamKeys(0))))
    latents, t, context = clip_of(4)

    @jax.jit
    def last_frame(params, latents):
        return merge(graphdef, params)(latents, t, context)[0, -1].sum()

    reach = np.abs(jax.grad(last_frame, argnums=1)(params, latents)).max((0, 2, 3, 4))
    assert np.all(reach > 0)
    alone = jax.jit(lambda params, latents: merge(graphdef, params)(latents, t, context, temporal=False)[0, -1].sum())
    assert not np.any(jax.grad(alone, argnums=1)(params, latents)[0, :-1])


@pytest.mark.parametrize("kind", [kind for kind in TEMPORAL_KINDS if kind != "animatediff"])
def test_windows_longer_than_32_frames(kind):
    graphdef, params = split(filled(lambda: UNet(dataclasses.replace(UNET, temporal=GEOMETRY[kind]), ParamKeys(0))))
    out = jax.jit(lambda params, *args: merge(graphdef, params)(*args))(params, *clip_of(40))
    assert out.shape == (1, 40, 6, 8, 4) and np.all(np.isfinite(out))


def test_rotary_attention_depends_on_distances_alone():
    q, k = (np.random.default_rng(i).standard_normal((1, 6, 1, 8)).astype(np.float32) for i in range(2))
    same = lambda x: np.repeat(x[:, :1], 6, 1)  # noqa: E731
    products = np.einsum("bikd,bjkd->ij", rotate(same(q), np.arange(6.0)), rotate(same(k), np.arange(6.0)))
    for step in range(-5, 6):
        np.testing.assert_allclose(np.diagonal(products, step), products[max(-step, 0), max(step, 0)], atol=1e-4)


def test_kinds_and_geometry_that_cannot_be():
    with pytest.raises(UserError, match="did you mean 'conv3d'"):
        TemporalConfig("conv3")
    for kind in ("transformer", "hybrid"):
        with pytest.raises(UserError, match="rotary ones of even width"):
            UNetConfig(channels=(24,), attention_levels=(True,), heads=8, groups=8, temporal=TemporalConfig(kind, heads=8, groups=8))


def test_frames_over_devices():
    """Each backbone gives the same on frames that lie on four devices."""
    on_devices(
        4,
        """
import dataclasses
from jax.sharding import NamedSharding, PartitionSpec as P
from champ_jax.models.animator import merge, split
from champ_jax.models.unet_config import TEMPORAL_KINDS
from champ_jax.models.unet import UNet
from champ_jax.nn.keys import ParamKeys
from tests.models.filled import filled
from tests.parallel.test_mesh import on_devices
from tests.models.test_temporal import GEOMETRY, UNET, clip_of
mesh = make_mesh({"context": 4})
for kind in TEMPORAL_KINDS:
    graphdef, params = split(filled(lambda: UNet(dataclasses.replace(UNET, temporal=GEOMETRY[kind]), ParamKeys(0))))
    latents, t, context = clip_of(8)
    run = jax.jit(lambda params, latents: merge(graphdef, params)(latents, t, context))
    spread = jax.device_put(latents, NamedSharding(mesh, P(None, "context")))
    out = run(params, spread)
    assert len(out.sharding.device_set) == 4, kind
    np.testing.assert_allclose(out, run(params, latents), atol=2e-4)
""",
    )
