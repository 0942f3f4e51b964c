"""Deterministic DDIM sampling (Song et al., arXiv 2010.02502, eta 0): which timesteps, and one step."""

import jax
import jax.numpy as jnp
import numpy as np

from champ_jax.diffusion.schedule import Schedule, alpha_bar, to_epsilon, to_x0
from champ_jax.errors import UserError


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
