"""Chains of diffusers' DDIM, DPM-Solver++, UniPC, Euler and LCM schedulers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.diffusion.samplers import SAMPLERS, make_steps, sampler_step, start
from champ_jax.diffusion.schedule import PREDICTIONS, Schedule
from tests.recorded import DIRECTORY
from tests.seeded import seeded

TOLERANCE = 1e-5
step = jax.jit(sampler_step)


@functools.cache
def load():
    with np.load(DIRECTORY / "samplers.npz") as file:
        return dict(file)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_chains(sampler, prediction, compare):
    """Each step's sample, from the recorded outputs. diffusers' floor under alpha_bar is in the recorded schedule."""
    names = [name for name in load() if name.startswith(f"chain/{sampler}/{prediction}/")]
    assert len({name.rpartition("/")[0] for name in names}) == (2 if prediction == "epsilon" and sampler in ("ddim", "lcm") else 4)
    for name in names:
        *_, kind, snr, n = name.split("/")
        alphas = jnp.asarray(load()[f"alphas/{kind}/{snr}"])
        assert snr != "floored" or alphas[-1] == 2**-24
        schedule = Schedule(jnp.zeros_like(alphas), alphas, prediction)
        table = make_steps(schedule, int(n), sampler, diffusers=sampler == "ddim")
        np.testing.assert_array_equal(table.timesteps, load()[f"timesteps/{sampler}/{n}"])
        outputs, samples = load()[name].swapaxes(0, 1)
        state, fresh = start(seeded("noise", outputs.shape[1:])), seeded("fresh noise", outputs.shape)
        ours = []
        for t, mix, output, noise in zip(table.timesteps, table.mix, outputs, fresh, strict=True):
            state = step(schedule, mix, state, output, t, noise)
            ours.append(state.x)
        compare(name.replace("chain", "samplers"), ours, samples, tolerance=TOLERANCE)
