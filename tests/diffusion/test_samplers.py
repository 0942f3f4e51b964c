"""Samplers: timesteps, a perfect network that brings back the data, orders of convergence, frames at steps of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.diffusion.guidance import classifier_free
from champ_jax.diffusion.samplers import SAMPLERS, ddim_step, make_steps, previous_timesteps, sampler_step, start, timesteps
from champ_jax.diffusion.schedule import PREDICTIONS, add_noise, make_schedule, target
from champ_jax.errors import UserError

step = jax.jit(sampler_step)


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


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_ends_on_the_data_of_a_perfect_network(sampler, prediction):
    """And is finite everywhere, also where epsilon predictions say nothing, at the first of many steps."""
    x0, noise, fresh = np.random.default_rng(3).standard_normal((3, 2, 3, 4)).astype(np.float32)
    schedule = make_schedule(prediction=prediction)
    for n in (1, 2, 3, 9):
        table, state = make_steps(schedule, n, sampler), start(noise)
        assert table.timesteps[0] == schedule.steps - 1 and np.all(np.diff(table.timesteps) < 0)
        assert table.timesteps.shape == (n,) and table.mix.shape == (n, 2, 6) and np.isfinite(table.mix).all()
        for t, mix in zip(*table, strict=True):
            state = step(schedule, mix, state, target(schedule, x0, implied_noise(schedule, state.x, x0, t), t), t, fresh)
            assert all(np.isfinite(part).all() for part in state)
        if prediction != "epsilon" or n > 1:
            np.testing.assert_allclose(state.x, x0, atol=2e-3)


def implied_noise(schedule, x, x0, t):
    a = schedule.alphas_cumprod[t]
    return (x - jnp.sqrt(a) * x0) / jnp.sqrt(1 - a)


@pytest.mark.parametrize("diffusers", [False, True])
def test_the_ddim_table_is_ddim_step(diffusers):
    schedule = make_schedule()
    x, *predictions = np.random.default_rng(4).standard_normal((8, 2, 3)).astype(np.float32)
    table, state = make_steps(schedule, 7, diffusers=diffusers), start(x)
    np.testing.assert_array_equal(table.timesteps, timesteps(schedule, 7))
    previous = previous_timesteps(schedule, table.timesteps, diffusers)
    for t, t_prev, mix, prediction in zip(table.timesteps, previous, table.mix, predictions, strict=True):
        x = ddim_step(schedule, x, prediction, t, t_prev)
        state = step(schedule, mix, state, prediction, t)
        np.testing.assert_allclose(state.x, x, atol=1e-5)


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("euler", 1), ("dpm++", 2), ("unipc", 3)])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_order_of_convergence(sampler, order, zero_snr):
    """For Gaussian data the perfect network and the exact path are known; errors fall by 2**order as steps double."""
    schedule = make_schedule("scaled_linear", zero_snr=zero_snr, prediction="x0")
    noise, mean, deviation = np.random.default_rng(5).standard_normal(64), 0.7, 0.4

    def marginal(t):
        a = float(schedule.alphas_cumprod[t])
        return np.sqrt(a) * mean, np.sqrt(a * deviation**2 + 1 - a), np.sqrt(a) * deviation**2

    def error(n):
        """Root mean square at t = 249, before the steps to clean data, which are of first order for all."""
        table, state = make_steps(schedule, n, sampler), start(noise)
        for t, mix in zip(table.timesteps[: -n // 4], table.mix[: -n // 4], strict=True):
            centre, spread, gain = marginal(t)
            state = step(schedule, mix, state, mean + gain * (state.x - centre) / spread**2, t)
        (first, first_spread, _), (centre, spread, _) = marginal(table.timesteps[0]), marginal(249)
        return np.sqrt(np.mean((state.x - centre - spread * (noise - first) / first_spread) ** 2))

    assert np.log2(error(8) / error(16)) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_frames_at_steps_of_their_own(sampler):
    """One step of frames that are at the steps 0, 1 and 3 is the step of each alone."""
    schedule = make_schedule()
    table = make_steps(schedule, 4, sampler)
    rng, at = np.random.default_rng(6), np.array([0, 1, 3])
    state = start(np.zeros((3, 2, 2, 4)))._make(rng.standard_normal((4, 3, 2, 2, 4)).astype(np.float32))
    prediction, noise = rng.standard_normal((2, 3, 2, 2, 4)).astype(np.float32)
    together = step(schedule, table.mix[at], state, prediction, table.timesteps[at], noise)
    for frame, i in enumerate(at):
        alone = jax.tree.map(lambda x, frame=frame: x[frame], state)
        alone = step(schedule, table.mix[i], alone, prediction[frame], table.timesteps[i], noise[frame])
        for ours, expected in zip(together, alone, strict=True):
            np.testing.assert_allclose(ours[frame], expected, rtol=1e-5, atol=1e-6)


def test_lcm_visits_its_grid():
    schedule = make_schedule()
    assert make_steps(schedule, 4, "lcm").timesteps.tolist() == [999, 759, 499, 259]
    assert make_steps(schedule, 100, "lcm").timesteps.tolist() == timesteps(schedule, 100).tolist()
    assert make_steps(make_schedule(steps=30), 4, "lcm").timesteps[0] == 29
    assert not make_steps(schedule, 4, "lcm").mix[-1, :, -1].any(), "noise in the result"


def test_wrong_samplers():
    schedule = make_schedule()
    with pytest.raises(UserError, match="unknown sampler 'heun'.*unipc"):
        make_steps(schedule, 4, "heun")
    with pytest.raises(UserError, match="only ddim"):
        make_steps(schedule, 4, "unipc", diffusers=True)
    with pytest.raises(UserError, match="trailing"):
        make_steps(schedule, 4, "lcm", "leading")


def test_classifier_free_guidance():
    uncond, cond = np.random.default_rng(2).standard_normal((2, 3, 8)).astype(np.float32)
    np.testing.assert_allclose(classifier_free(uncond, cond, 1.0), cond, atol=1e-6)
    np.testing.assert_allclose(classifier_free(uncond, cond, 3.0), uncond + 3 * (cond - uncond), rtol=1e-5)
    full = classifier_free(uncond, cond, 7.5, rescale=1.0)
    np.testing.assert_allclose(full.std(1), cond.std(1), rtol=1e-4)
    assert np.all(np.isfinite(classifier_free(jnp.zeros((1, 4)), jnp.zeros((1, 4)), 2.0, rescale=0.7)))
