"""Temporal modules: nothing at first, then attention over frames of each position alone."""

import jax
import numpy as np
import pytest

from champ_jax.errors import UserError
from champ_jax.models.temporal import TemporalConfig, TemporalModule, frame_positions
from champ_jax.nn.keys import ParamKeys
from champ_jax.nn.policy import Policy
from tests.models.filled import filled

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
