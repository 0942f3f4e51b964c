"""Tables, chains and conversions of diffusers' DDIMScheduler with CHAMP's arguments."""

import jax
import numpy as np
import pytest

from champ_jax.diffusion.samplers import ddim_step, previous_timesteps, timesteps
from champ_jax.diffusion.schedule import add_noise, target, to_x0
from tests.parity.networks import channels_last

KINDS = ("linear", "scaled_linear")


@pytest.mark.parametrize("kind", KINDS)
def test_tables(networks, load, compare, kind):
    recorded = load("io_scheduler")
    schedule = networks.schedule(kind)
    # The recorded betas are differences of float32 numbers near 1; their largest is 1.
    compare(f"scheduler/{kind}/betas", schedule.betas, recorded[f"{kind}.betas"], scale=1.0)
    compare(f"scheduler/{kind}/alphas_cumprod", schedule.alphas_cumprod, recorded[f"{kind}.alphas_cumprod"])
    assert float(schedule.alphas_cumprod[-1]) == 0.0
    plain = networks.schedule(kind, zero_snr=False)
    recorded_plain = recorded[f"{kind}.alphas_cumprod_no_zero_snr"]
    compare(f"scheduler/{kind}/alphas_cumprod without zero SNR", plain.alphas_cumprod, recorded_plain)


@pytest.mark.parametrize("kind", KINDS)
def test_timesteps(networks, load, kind):
    tables = load("scheduler.json")
    schedule = networks.schedule(kind)
    found = 0
    for name, recorded in tables.items():
        group, _, count = name.rpartition(".timesteps.")
        if group in (kind, f"{kind}.epsilon_leading"):
            spacing = "leading" if group.endswith("leading") else "trailing"
            np.testing.assert_array_equal(timesteps(schedule, int(count), spacing), recorded)
            found += 1
    assert found


@pytest.mark.parametrize("kind", KINDS)
def test_chain(networks, load, compare, kind):
    recorded = load("io_scheduler")
    schedule = networks.schedule(kind)
    count = sum(name.startswith(f"{kind}.step.") and name.endswith(".v") for name in recorded)
    visited = timesteps(schedule, count)
    x = channels_last(recorded[f"{kind}.step.x_init"])
    step = jax.jit(ddim_step)
    chain, clean = [], []
    for i, (t, t_prev) in enumerate(zip(visited, previous_timesteps(schedule, visited, diffusers=True), strict=True)):
        v = channels_last(recorded[f"{kind}.step.{i:02d}.v"])
        clean.append(to_x0(schedule, x, v, t))
        x = step(schedule, x, v, t, t_prev)
        chain.append(x)
    for name, ours, key in (("chain", chain, "prev_sample"), ("x0 of the chain", clean, "pred_original")):
        theirs = [channels_last(recorded[f"{kind}.step.{i:02d}.{key}"]) for i in range(count)]
        compare(f"scheduler/{kind}/{name} of {count} steps", ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_epsilon_step(networks, load, compare, kind):
    """One step from t=481 with 20 leading timesteps; this scheduler has no zero SNR."""
    recorded = load("io_scheduler")
    schedule = networks.schedule(kind, prediction="epsilon", zero_snr=False)
    x, epsilon = (channels_last(recorded[f"{kind}.eps.{name}"]) for name in "xe")
    ours = ddim_step(schedule, x, epsilon, 481, 481 - schedule.steps // 20)
    compare(f"scheduler/{kind}/epsilon step", ours, channels_last(recorded[f"{kind}.eps.prev_t481"]))


@pytest.mark.parametrize("kind", KINDS)
def test_noising_and_velocity(networks, load, compare, kind):
    recorded = load("io_scheduler")
    schedule = networks.schedule(kind)
    x0, noise = (channels_last(recorded[f"{kind}.{name}"]) for name in ("x0", "noise"))
    t = recorded[f"{kind}.t"]
    noisy, velocity = (channels_last(recorded[f"{kind}.{name}"]) for name in ("add_noise", "velocity"))
    compare(f"scheduler/{kind}/add_noise", add_noise(schedule, x0, noise, t), noisy)
    compare(f"scheduler/{kind}/velocity", target(schedule, x0, noise, t), velocity)
