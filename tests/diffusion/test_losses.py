"""Weights and losses of training, with numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.diffusion.losses import (
    box_mask,
    diffusion_loss,
    min_snr_weight,
    offset_noise,
    squared_error,
    temporal_loss,
)
from champ_jax.diffusion.schedule import add_noise, make_schedule, snr, target, to_x0
from champ_jax.errors import UserError

T = jnp.array([0, 100, 500, 999])


def test_min_snr_of_v_in_both_forms():
    schedule = make_schedule("scaled_linear")
    ratio = np.asarray(snr(schedule, T), np.float64)
    champ, diffusers = (np.asarray(min_snr_weight(schedule, T, 5.0, form)) for form in ("champ", "diffusers"))
    np.testing.assert_allclose(champ, np.minimum(ratio + 1, 5) / (ratio + 1), rtol=1e-5)
    np.testing.assert_allclose(diffusers, np.minimum(ratio, 5) / (ratio + 1), rtol=1e-5)
    assert champ[-1] == 1 and diffusers[-1] == 0


def test_min_snr_of_epsilon_at_zero_snr():
    weight = np.asarray(min_snr_weight(make_schedule(prediction="epsilon"), T))
    assert np.all(np.isfinite(weight)) and weight[-1] == 1


@pytest.mark.parametrize("form", ["champ", "diffusers"])
def test_x0_prediction_is_trained_like_v(form):
    """The same error in x0 costs the same, whichever of the two the network puts out; at zero SNR too."""
    x0, noise, error = np.random.default_rng(0).standard_normal((3, 4, 1, 4, 4, 2)).astype(np.float32)
    v, direct = make_schedule(), make_schedule(prediction="x0")
    t = jnp.array([100, 500, 900, 999])
    x = add_noise(v, x0, noise, t)
    v_output = target(v, x0, noise, t) + error
    ours = diffusion_loss(direct, to_x0(v, x, v_output, t), x0, noise, t, form=form)
    np.testing.assert_allclose(ours, diffusion_loss(v, v_output, x0, noise, t, form=form), rtol=1e-3)


def test_terminal_step_of_x0_counts():
    assert float(min_snr_weight(make_schedule(prediction="x0"), jnp.array(999))) == 1.0


def test_loss_by_hand():
    schedule = make_schedule(prediction="x0")
    x0 = jnp.zeros((2, 1, 2, 2, 1))
    prediction = x0.at[0].set(2.0).at[1].set(1.0)
    t = jnp.array([999, 999])
    np.testing.assert_allclose(squared_error(schedule, prediction, x0, x0, t), [4.0, 1.0])
    np.testing.assert_allclose(diffusion_loss(schedule, prediction, x0, x0, t, gamma=0), 2.5)
    weights = jnp.zeros((2, 1, 2, 2, 1)).at[:, :, 0].set(3.0)
    np.testing.assert_allclose(diffusion_loss(schedule, prediction, x0, x0, t, weights, gamma=0), 3.75)


def test_unknown_form():
    with pytest.raises(UserError, match="form"):
        min_snr_weight(make_schedule(), T, form="moore")


def test_noise_offset_is_shared_by_frames_and_pixels():
    key = jax.random.key(0)
    plain, moved = (offset_noise(key, (2, 3, 8, 8, 4), offset) for offset in (0.0, 0.5))
    difference = np.asarray(moved - plain)
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:, :1, :1, :1], difference.shape), atol=1e-6)
    assert np.unique(np.round(difference, 4)).size == 8
    assert abs(float(plain.std()) - 1) < 0.05


def test_temporal_loss_wants_the_true_motion():
    schedule = make_schedule()
    t = jnp.array([0, 0])
    moving = np.random.default_rng(3).standard_normal((2, 5, 3, 3, 2)).astype(np.float32)
    frozen = np.repeat(moving[:, :1], 5, axis=1)
    assert float(temporal_loss(schedule, moving + 7.0, moving, t)) < 1e-9, "a constant shift is not motion"
    assert float(temporal_loss(schedule, frozen, moving, t)) > 1.0
    assert float(temporal_loss(schedule, frozen, moving, jnp.array([999, 999]))) == 0.0
    assert float(temporal_loss(schedule, frozen[:, :1], moving[:, :1], t)) == 0.0


def test_box_mask():
    boxes = jnp.array([[1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0], [0.5, 0.0, 2.0, 1.0]])
    mask = np.asarray(box_mask(boxes, (3, 4)))
    assert mask.shape == (3, 3, 4)
    np.testing.assert_array_equal(mask[0], [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
    assert not mask[1].any(), "no face: no extra weight"
    np.testing.assert_allclose(mask[2, 0], [0.5, 1, 0, 0])
