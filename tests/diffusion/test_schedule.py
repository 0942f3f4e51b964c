"""Schedules and conversions: exact ends, round trips in every prediction type, nothing divided by zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.diffusion.schedule import PREDICTIONS, add_noise, make_schedule, network_input, snr, target, to_epsilon, to_x0
from champ_jax.errors import UserError


@pytest.fixture
def data():
    x0, noise = np.random.default_rng(0).standard_normal((2, 3, 2, 4, 4, 2)).astype(np.float32)
    return x0, noise


def test_zero_terminal_snr():
    schedule = make_schedule("scaled_linear")
    assert float(schedule.alphas_cumprod[-1]) == 0.0
    assert float(schedule.betas[-1]) == 1.0
    plain = make_schedule("scaled_linear", zero_snr=False)
    np.testing.assert_allclose(schedule.alphas_cumprod[0], plain.alphas_cumprod[0], rtol=1e-6)
    assert np.all(np.diff(schedule.alphas_cumprod) < 0)
    assert float(snr(schedule, jnp.array(999))) == 0.0


def test_published_values():
    """alpha_bar at t=499, 249 and 949 of both schedules, as CHAMP's own code prints them."""
    for kind, values in (("linear", (0.1425, 0.556, 2.0e-4)), ("scaled_linear", (0.2424, 0.654, 6.1e-4))):
        alphas = np.asarray(make_schedule(kind).alphas_cumprod)
        np.testing.assert_allclose(alphas[[499, 249, 949]], values, rtol=0.02)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_right_prediction_gives_back_the_data(data, prediction):
    x0, noise = data
    schedule = make_schedule(prediction=prediction)
    t = jnp.array([0, 400, 900])
    x = add_noise(schedule, x0, noise, t)
    output = target(schedule, x0, noise, t)
    np.testing.assert_allclose(to_x0(schedule, x, output, t), x0, atol=1e-3)
    # At t = 0 there is hardly any noise in x, so 1/sqrt(1 - alpha_bar) magnifies rounding.
    np.testing.assert_allclose(to_epsilon(schedule, x, output, t), noise, atol=1e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_nothing_divides_by_zero_at_the_terminal_step(data, prediction):
    x0, noise = data
    schedule = make_schedule(prediction=prediction)

    def value(output):
        t = jnp.array(999)
        return jnp.sum(to_x0(schedule, noise, output, t) + to_epsilon(schedule, noise, output, t))

    total, grad = jax.value_and_grad(value)(jnp.asarray(x0))
    assert np.isfinite(total) and np.all(np.isfinite(grad))
    if prediction == "epsilon":
        np.testing.assert_array_equal(to_x0(schedule, noise, noise, 999), 0)


def test_schedule_goes_through_jit(data):
    x0, noise = data
    schedule = make_schedule(prediction="x0")
    t = jnp.array([1, 2, 3])
    np.testing.assert_allclose(jax.jit(target)(schedule, x0, noise, t), x0)


def test_errors():
    for wrong in ({"kind": "cosine"}, {"prediction": "noise"}, {"steps": 1}, {"beta_start": 0.5, "beta_end": 0.1}):
        with pytest.raises(UserError):
            make_schedule(**wrong)


def test_input_is_scaled_to_the_best_estimate_only_where_asked(data):
    x0, noise = data
    t = jnp.array([0, 500, 999])
    plain, scaled = make_schedule(), make_schedule(scale_input=True)
    x = add_noise(plain, x0, noise, t)
    assert network_input(plain, x, t) is x
    estimate = network_input(scaled, x, t)
    np.testing.assert_array_equal(estimate[2], 0)
    # Nearer to the data than any other multiple of x is on average.
    for factor in (0.8, 1.25):
        assert jnp.mean((estimate[1] - x0[1]) ** 2) < jnp.mean((factor * estimate[1] - x0[1]) ** 2) + 0.02
