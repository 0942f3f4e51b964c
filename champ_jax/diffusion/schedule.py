"""Noise schedules and the conversions between clean data, noise, v and noisy data.

Everything is float32 and a pure function of a `Schedule`. Zero terminal SNR (Lin et al., arXiv 2305.08891) makes
alpha_bar exactly 0 at the last step; no formula here divides by it.
"""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from champ_jax.errors import UserError

PREDICTIONS = ("v", "epsilon", "x0")
KINDS = ("linear", "scaled_linear")


@partial(jax.tree_util.register_dataclass, data_fields=("betas", "alphas_cumprod"), meta_fields=("prediction", "scale_input"))
@dataclass(frozen=True)
class Schedule:
    """A discrete noise schedule of T steps; a pytree whose `prediction` and `scale_input` are static.

    betas: [T] float32, in (0, 1].
    alphas_cumprod: [T] float32, falling from almost 1 to a small value (exactly 0 with zero terminal SNR).
    prediction: what the network puts out, one of "v", "epsilon", "x0".
    scale_input: whether the network reads sqrt(alpha_bar) x in place of noisy x; see `network_input`.
    """

    betas: jax.Array
    alphas_cumprod: jax.Array
    prediction: str = field(default="v")
    scale_input: bool = field(default=False)

    @property
    def steps(self) -> int:
        """Number of training timesteps T."""
        return self.betas.shape[0]


def make_schedule(
    kind: str = "linear",
    steps: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    zero_snr: bool = True,
    prediction: str = "v",
    scale_input: bool = False,
) -> Schedule:
    """Build a schedule; the defaults are those CHAMP samples with (it trains with "scaled_linear").

    kind: "linear" spaces beta evenly, "scaled_linear" spaces sqrt(beta) evenly (Stable Diffusion).
    zero_snr: shift and scale sqrt(alpha_bar) so that the last one is 0 and the first is unchanged.
    Raises UserError for an unknown kind or prediction, or betas outside 0 < start <= end < 1.
    """
    if kind not in KINDS:
        raise UserError(f"unknown noise schedule {kind!r}: expected one of {', '.join(KINDS)}")
    if prediction not in PREDICTIONS:
        raise UserError(f"unknown prediction type {prediction!r}: expected one of {', '.join(PREDICTIONS)}")
    if steps < 2 or not 0 < beta_start <= beta_end < 1:
        raise UserError(f"a schedule needs steps >= 2 and 0 < beta_start <= beta_end < 1, got {steps}, {beta_start}, {beta_end}")
    # Host float64: the tables are made once, and products of 1000 factors keep full float32 accuracy this way.
    if kind == "linear":
        betas = np.linspace(beta_start, beta_end, steps)
    else:
        betas = np.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2
    alphas_cumprod = np.cumprod(1 - betas)
    if zero_snr:
        root = np.sqrt(alphas_cumprod)
        alphas_cumprod = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        betas = 1 - alphas_cumprod / np.concatenate([[1.0], alphas_cumprod[:-1]])
    return Schedule(jnp.asarray(betas, jnp.float32), jnp.asarray(alphas_cumprod, jnp.float32), prediction, scale_input)


def alpha_bar(schedule: Schedule, t: jax.Array) -> jax.Array:
    """alphas_cumprod at integer timesteps t (any shape), and 1 (no noise left) where t < 0. Float32, shape of t."""
    t = jnp.asarray(t)
    return jnp.where(t < 0, 1.0, schedule.alphas_cumprod[jnp.maximum(t, 0)])


def snr(schedule: Schedule, t: jax.Array) -> jax.Array:
    """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) at t; 0 at a zero-SNR terminal step. Shape of t."""
    a = alpha_bar(schedule, t)
    return a / (1 - a)


def signal_noise(schedule: Schedule, t: jax.Array, ndim: int) -> tuple[jax.Array, jax.Array]:
    """(sqrt(alpha_bar), sqrt(1 - alpha_bar)) at t, scalar or [B], with trailing unit axes up to `ndim` axes."""
    a = alpha_bar(schedule, t)
    a = a.reshape(a.shape + (1,) * (ndim - a.ndim)) if a.ndim else a
    return jnp.sqrt(a), jnp.sqrt(1 - a)


def add_noise(schedule: Schedule, x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """Noisy data sqrt(a) x0 + sqrt(1-a) noise. x0, noise: [B, ...]; t: scalar or [B] integers. Float32 [B, ...]."""
    signal, sigma = signal_noise(schedule, t, x0.ndim)
    return signal * x0 + sigma * noise


def network_input(schedule: Schedule, x: jax.Array, t: jax.Array) -> jax.Array:
    """What the network reads of noisy x [B, ...] at t, scalar or [B]: x itself, or with `scale_input` sqrt(alpha_bar) x.

    The latter is the best linear estimate of x0 for data of unit variance. At a terminal SNR of zero it is 0: there the
    noise says nothing about x0, and a small network learns much faster when it need not find that out.
    """
    return signal_noise(schedule, t, x.ndim)[0] * x if schedule.scale_input else x


def target(schedule: Schedule, x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """What the network should put out for (x0, noise, t), by the schedule's prediction type. Shape of x0."""
    if schedule.prediction == "epsilon":
        return noise
    if schedule.prediction == "x0":
        return x0
    signal, sigma = signal_noise(schedule, t, x0.ndim)
    return signal * noise - sigma * x0


def to_x0(schedule: Schedule, x: jax.Array, prediction: jax.Array, t: jax.Array) -> jax.Array:
    """The clean data a prediction implies for noisy x at t. x, prediction: [B, ...]; t: scalar or [B]. Float32.

    With epsilon prediction and alpha_bar 0 the noisy data says nothing about x0: the answer there is 0, the mean.
    """
    x, prediction = x.astype(jnp.float32), prediction.astype(jnp.float32)
    if schedule.prediction == "x0":
        return prediction
    signal, sigma = signal_noise(schedule, t, x.ndim)
    if schedule.prediction == "v":
        return signal * x - sigma * prediction
    return jnp.where(signal > 0, (x - sigma * prediction) / jnp.where(signal > 0, signal, 1.0), 0.0)


def to_epsilon(schedule: Schedule, x: jax.Array, prediction: jax.Array, t: jax.Array) -> jax.Array:
    """The noise a prediction implies for noisy x at t. Shapes as in `to_x0`. Float32."""
    x, prediction = x.astype(jnp.float32), prediction.astype(jnp.float32)
    if schedule.prediction == "epsilon":
        return prediction
    signal, sigma = signal_noise(schedule, t, x.ndim)
    if schedule.prediction == "v":
        return signal * prediction + sigma * x
    return (x - signal * prediction) / sigma
