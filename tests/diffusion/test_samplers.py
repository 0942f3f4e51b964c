"""DDIM: timesteps, their predecessors, and a perfect network that brings back the data in any number of steps."""

import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.diffusion.guidance import classifier_free
from champ_jax.diffusion.samplers import ddim_step, previous_timesteps, timesteps
from champ_jax.diffusion.schedule import PREDICTIONS, add_noise, make_schedule, target
from champ_jax.errors import UserError


def test_trailing_starts_at_the_last_step_and_leading_does_not():
    schedule = make_schedule()
    assert timesteps(schedule, 4).tolist() == [999, 749, 499, 249]
    assert timesteps(schedule, 4, "leading").tolist() == [751, 501, 251, 1]
    assert timesteps(schedule, 1).tolist() == [999]
    assert len(timesteps(schedule, 1000)) == 1000
    for wrong in (0, 1001):
        with pytest.raises(UserError, match="steps"):
            timesteps(schedule, wrong)
    with pytest.raises(UserError, match="spacing"):
        timesteps(schedule, 4, "even")


def test_previous_timesteps():
    schedule = make_schedule()
    visited = timesteps(schedule, 3)
    assert visited.tolist() == [999, 666, 332]
    assert previous_timesteps(schedule, visited).tolist() == [666, 332, -1]
    assert previous_timesteps(schedule, visited, diffusers=True).tolist() == [666, 333, -1]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_perfect_network_gives_the_data(prediction, steps):
    """With x0 and v from pure noise; epsilon says nothing at alpha_bar 0, so it starts one visited step later."""
    x0, noise = np.random.default_rng(1).standard_normal((2, 2, 3, 4)).astype(np.float32)
    schedule = make_schedule(prediction=prediction, zero_snr=prediction != "epsilon")
    visited = timesteps(schedule, steps)
    x = add_noise(schedule, x0, noise, visited[0])
    for t, t_prev in zip(visited, previous_timesteps(schedule, visited), strict=True):
        x = ddim_step(schedule, x, target(schedule, x0, noise, t), t, t_prev)
        if t_prev >= 0:
            np.testing.assert_allclose(x, add_noise(schedule, x0, noise, t_prev), atol=1e-3)
    np.testing.assert_allclose(x, x0, atol=1e-3)


def test_classifier_free_guidance():
    uncond, cond = np.random.default_rng(2).standard_normal((2, 3, 8)).astype(np.float32)
    np.testing.assert_allclose(classifier_free(uncond, cond, 1.0), cond, atol=1e-6)
    np.testing.assert_allclose(classifier_free(uncond, cond, 3.0), uncond + 3 * (cond - uncond), rtol=1e-5)
    full = classifier_free(uncond, cond, 7.5, rescale=1.0)
    np.testing.assert_allclose(full.std(1), cond.std(1), rtol=1e-4)
    assert np.all(np.isfinite(classifier_free(jnp.zeros((1, 4)), jnp.zeros((1, 4)), 2.0, rescale=0.7)))
