"""Samplers: which timesteps to visit, and one step of DDIM, DPM-Solver++, UniPC, Euler or LCM.

Every one of them makes its next sample as a fixed linear mixture of what it has: the sample, the corrected sample of the
step before, the clean data predicted now and at the last two steps, and fresh noise. So a sampler is a table of
weights, made once on the host in float64, and one step is the same few products for all of them, jitted once.

With zero terminal SNR the first step starts at lambda = log(signal / noise) = -inf. The weights are the limits there,
where diffusers puts a floor of 2**-24 under alpha_bar.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from champ_jax.diffusion.schedule import Schedule, alpha_bar, to_epsilon, to_x0
from champ_jax.errors import UserError

SAMPLERS = ("ddim", "dpm++", "unipc", "euler", "lcm")
LCM_GRID = 50
"""Timesteps that a latent consistency model is distilled on; fewer steps visit some of them."""
LCM_SCALING = 10.0
LCM_SIGMA = 0.5
"""Scale of timesteps and deviation of the data in the boundary condition of consistency models, those of LCM."""
X, LAST, X0, X0_1, X0_2, NOISE = range(6)
UNIT = np.eye(6)


class Steps(NamedTuple):
    """What a sampler does at each of its n steps; host arrays, from `make_steps`.

    timesteps: int32 [n], falling: where the network is asked.
    mix: float32 [n, 2, 6]: what the next sample (0) and the next `last` (1) take of x, last, x0, x0_1, x0_2 and noise.
    """

    timesteps: np.ndarray
    mix: np.ndarray


class SamplerState(NamedTuple):
    """What goes from step to step, arrays of one shape; after the last step x is the result.

    x: the sample; last: the corrected sample of the step before (UniPC); x0_1, x0_2: the clean data that were predicted
    one and two steps ago.
    """

    x: jax.Array
    last: jax.Array
    x0_1: jax.Array
    x0_2: jax.Array


def timesteps(schedule: Schedule, n: int, spacing: str = "trailing") -> np.ndarray:
    """The n timesteps to visit, falling, int32 [n].

    "trailing" starts at the last step T-1, which zero terminal SNR needs; "leading" ends at 1 (Stable Diffusion's
    steps_offset) and never visits the last step. Raises UserError unless 1 <= n <= T.
    """
    total = schedule.steps
    if not 1 <= n <= total:
        raise UserError(f"{n} sampling steps: expected between 1 and the schedule's {total}")
    if spacing == "trailing":
        # Python's round and numpy's agree on halves, so this is diffusers' table to the last integer.
        return (np.round(np.arange(total, 0, -total / n))[:n] - 1).astype(np.int32)
    if spacing == "leading":
        return np.arange(n, dtype=np.int32)[::-1] * (total // n) + 1
    raise UserError(f"unknown timestep spacing {spacing!r}: expected trailing or leading")


def previous_timesteps(schedule: Schedule, visited: np.ndarray, diffusers: bool = False) -> np.ndarray:
    """The timestep each visited one steps to, int32 [n]; a negative one means clean data.

    By default the next visited timestep. `diffusers=True` steps by T // n instead as diffusers (hence CHAMP) does,
    which misses the next visited timestep by one or more wherever n does not divide T.
    """
    if diffusers:
        return (visited - schedule.steps // len(visited)).astype(np.int32)
    return np.append(visited[1:], -1).astype(np.int32)


def ddim_step(schedule: Schedule, x: jax.Array, prediction: jax.Array, t: jax.Array, t_prev: jax.Array) -> jax.Array:
    """One DDIM step with eta 0, from noisy x at t to t_prev. Float32, shape of x.

    x, prediction: [B, ...]; t, t_prev: scalar integers (t_prev < 0 gives the clean data). Exact at alpha_bar 0.
    """
    a = alpha_bar(schedule, t_prev)
    return jnp.sqrt(a) * to_x0(schedule, x, prediction, t) + jnp.sqrt(1 - a) * to_epsilon(schedule, x, prediction, t)


def make_steps(schedule: Schedule, n: int, sampler: str = "ddim", spacing: str = "trailing", diffusers: bool = False) -> Steps:
    """The table of n steps of a sampler, one of SAMPLERS. The last step gives clean data.

    ddim: Song et al., arXiv 2010.02502, eta 0. euler: Euler's method in sigma = noise / signal (Karras et al., arXiv
    2206.00364), which is the same as ddim step for step. dpm++: DPM-Solver++(2M), Lu et al., arXiv 2211.01095. unipc: order 2,
    B(h) = e^h - 1, with the corrector, Zhao et al., arXiv 2302.04867. lcm: Luo et al., arXiv 2310.04378, for networks
    distilled that way; it adds fresh noise at every step but the last, and visits some of the 50 trailing timesteps that
    they are distilled on (n > 50: of n). The two of second order start and end at first order.
    spacing: see `timesteps`. diffusers: see `previous_timesteps`; DDIM only.
    Raises UserError for an unknown sampler or spacing, n outside 1..T, `diffusers` with another sampler than ddim, or
    lcm with another spacing than trailing.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"unknown sampler {sampler!r}: expected one of {', '.join(SAMPLERS)}")
    if diffusers and sampler != "ddim":
        raise UserError(f"sampler {sampler!r} with CHAMP's way of stepping by T // n: only ddim has it, take ddim or leave the compat off")
    if sampler == "lcm" and spacing != "trailing":
        raise UserError(f"sampler lcm with timestep spacing {spacing!r}: it starts at the last timestep, use trailing")
    visited = timesteps(schedule, n, spacing)
    if sampler == "lcm":
        grid = timesteps(schedule, max(n, min(LCM_GRID, schedule.steps)))
        visited = grid[len(grid) * np.arange(n) // n]
    levels = np.stack([_signal_noise(schedule, t) for t in (visited, previous_timesteps(schedule, visited, diffusers))], 1)
    mix = np.zeros((n, 2, 6))
    for i, (here, there) in enumerate(levels):
        if sampler == "lcm":
            mix[i, 0] = _lcm(visited[i], *there)
            continue
        sample = _corrector(levels[:, 0], i) if sampler == "unipc" and i else UNIT[X]
        second_order = sampler in ("dpm++", "unipc") and 0 < i < n - 1
        mix[i, 0] = _predictor(here, there, sample, levels[i - 1, 0] if second_order else None)
        if sampler == "unipc":
            mix[i, 1] = sample
    return Steps(visited, mix.astype(np.float32))


def start(x: jax.Array) -> SamplerState:
    """The state before the first step, from unit normal noise x of any shape. Float32."""
    x = jnp.asarray(x, jnp.float32)
    return SamplerState(x, *[jnp.zeros_like(x)] * 3)


def sampler_step(
    schedule: Schedule, mix: jax.Array, state: SamplerState, prediction: jax.Array, t: jax.Array, noise: jax.Array | float = 0.0
) -> SamplerState:
    """One step from the network's prediction for state.x at t. Jittable; float32.

    state: arrays [..., h, w, C]; prediction, noise: the same shape (noise: unit normal, and used by lcm alone).
    mix, t: a row of `Steps`, [2, 6] and a scalar, or one for each of the leading axes of x: for frames at steps of their
    own, x [F, h, w, C], mix [F, 2, 6] and t [F].
    """
    x0 = to_x0(schedule, state.x, prediction, t)
    parts = (state.x, state.last, x0, state.x0_1, state.x0_2, noise)
    weights = jnp.moveaxis(mix, (-2, -1), (0, 1))
    weights = weights.reshape(weights.shape + (1,) * (state.x.ndim - weights.ndim + 2))
    x, last = (sum(weight * part for weight, part in zip(row, parts, strict=True)) for row in weights)
    return SamplerState(x, last, x0, state.x0_1)


def _signal_noise(schedule: Schedule, t: np.ndarray) -> np.ndarray:
    """(sqrt(alpha_bar), sqrt(1 - alpha_bar)) at t, [n, 2] float64; (1, 0) where t < 0."""
    a = np.where(t < 0, 1.0, np.asarray(schedule.alphas_cumprod, np.float64)[np.maximum(t, 0)])
    return np.sqrt(np.stack([a, 1 - a], -1))


def _lambda(level: np.ndarray) -> float:
    """Log of signal over noise; -inf without signal, inf without noise."""
    with np.errstate(divide="ignore"):
        return np.log(level[0]) - np.log(level[1])


def _predictor(here: np.ndarray, there: np.ndarray, sample: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """Weights of the next sample: one exponential step from `sample`, itself given by its weights.

    here, there, before: (signal, noise) now, after the step, and at the step before; without the last at first order.
    """
    # There is no exponential of lambda in this form, so it holds at no signal and at no noise.
    shrink = there[1] / here[1]
    weights = shrink * sample
    pull = there[0] - shrink * here[0]
    weights[X0] += pull
    if before is not None:
        slope = 0.5 * pull * (_lambda(there) - _lambda(here)) / (_lambda(here) - _lambda(before))
        weights[X0] += slope
        weights[X0_1] -= slope
    return weights


def _corrector(levels: np.ndarray, i: int) -> np.ndarray:
    """Weights of UniPC's corrected sample at step i >= 1, which steps again from the last one, now knowing x0 here.

    levels: (signal, noise) at the visited timesteps, [n, 2].
    """
    weights = np.zeros(6)
    shrink = levels[i, 1] / levels[i - 1, 1]
    pull = levels[i, 0] - shrink * levels[i - 1, 0]
    weights[LAST], weights[X0_1] = shrink, pull
    if i == 1:
        # At first order UniPC takes the half for B(h) = e^h - 1 whatever the step.
        new, old = 0.5, 0.0
    else:
        h = _lambda(levels[i]) - _lambda(levels[i - 1])
        ratio = (_lambda(levels[i - 2]) - _lambda(levels[i - 1])) / h
        # The paper's R rho = b for two points, solved by hand: rho[0] is for the older one.
        growth = np.expm1(-h)
        b = np.array([-1 / h - 1 / growth, (2 / h**2) + (2 / h - 1) / growth])
        rho = (b[0] - b[1]) / (1 - ratio)
        new, old = b[0] - rho, rho / ratio
    weights += pull * (new * UNIT[X0] + old * UNIT[X0_2] - (new + old) * UNIT[X0_1])
    return weights


def _lcm(t: int, signal: float, noise: float) -> np.ndarray:
    """Weights of LCM's next sample, from t to (signal, noise): the clean data by the boundary condition, with fresh noise."""
    scaled = LCM_SCALING * float(t)
    norm = scaled**2 + LCM_SIGMA**2
    clean = LCM_SIGMA**2 / norm * UNIT[X] + scaled / np.sqrt(norm) * UNIT[X0]
    return signal * clean + noise * UNIT[NOISE]
