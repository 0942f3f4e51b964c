"""Losses of diffusion training: min-SNR weights, noise offset, face boxes, differences between frames."""

import jax
import jax.numpy as jnp

from champ_jax.diffusion.schedule import Schedule, alpha_bar, snr, target
from champ_jax.errors import UserError

SNR_FORMS = ("champ", "diffusers")


def offset_noise(key: jax.Array, shape: tuple[int, ...], offset: float) -> jax.Array:
    """Normal noise of `shape` [B, ..., C] plus `offset` times one normal number a sample and channel. Float32.

    The shared part lets a model move the mean colour of a whole clip; CHAMP uses an offset of 0.05.
    """
    key_noise, key_shared = jax.random.split(key)
    shared = (shape[0],) + (1,) * (len(shape) - 2) + (shape[-1],)
    return jax.random.normal(key_noise, shape) + offset * jax.random.normal(key_shared, shared)


def min_snr_weight(schedule: Schedule, t: jax.Array, gamma: float = 5.0, form: str = "champ") -> jax.Array:
    """Loss weight at timesteps t for the schedule's prediction type (min-SNR, arXiv 2303.09556). Float32, shape of t.

    "champ" uses min(s, gamma) / s with s = SNR + 1 for v, which is 1 where the SNR is 0, so the terminal step is
    trained. "diffusers" uses min(SNR, gamma) / (SNR + 1), which is 0 there. For epsilon both are min(SNR, gamma) / SNR
    (1 at SNR 0). For x0 they are the weights that give the same loss as v in that form, since an error e in x0 is an
    error e * sqrt(SNR + 1) in v: min(SNR + 1, gamma) and min(SNR, gamma).
    Raises UserError for an unknown form.
    """
    if form not in SNR_FORMS:
        raise UserError(f"unknown min-SNR form {form!r}: expected champ or diffusers")
    ratio = snr(schedule, t)
    if schedule.prediction == "epsilon":
        return gamma / jnp.maximum(ratio, gamma)
    weight = jnp.minimum(ratio + 1 if form == "champ" else ratio, gamma)
    return weight if schedule.prediction == "x0" else weight / (ratio + 1)


def squared_error(
    schedule: Schedule,
    prediction: jax.Array,
    x0: jax.Array,
    noise: jax.Array,
    t: jax.Array,
    weights: jax.Array | None = None,
) -> jax.Array:
    """Mean squared error of each sample's prediction against its target, [B] float32.

    prediction, x0, noise: [B, F, h, w, C]; t: [B]; weights: of single cells, [B, F, h, w, 1] or None for all 1.
    """
    error = jnp.square(prediction.astype(jnp.float32) - target(schedule, x0, noise, t).astype(jnp.float32))
    if weights is not None:
        error = error * weights
    return error.mean(tuple(range(1, error.ndim)))


def diffusion_loss(
    schedule: Schedule,
    prediction: jax.Array,
    x0: jax.Array,
    noise: jax.Array,
    t: jax.Array,
    weights: jax.Array | None = None,
    gamma: float = 5.0,
    form: str = "champ",
) -> jax.Array:
    """Mean over samples of their min-SNR weighted `squared_error`, scalar float32; shapes as there.

    gamma 0 weighs all timesteps alike.
    """
    per_sample = squared_error(schedule, prediction, x0, noise, t, weights)
    if gamma:
        per_sample = per_sample * min_snr_weight(schedule, t, gamma, form)
    return per_sample.mean()


def temporal_loss(schedule: Schedule, predicted: jax.Array, x0: jax.Array, t: jax.Array) -> jax.Array:
    """Squared error between the frame differences of predicted clean data and those of the truth, scalar float32.

    Comparing with the true differences, instead of asking for small ones, does not reward a frozen video. Samples
    count by alpha_bar(t): under much noise no prediction can know the motion, and its best guess is a blur.
    predicted, x0: [B, F, h, w, C]; t: [B]. One frame gives 0.
    """
    if x0.shape[1] < 2:
        return jnp.zeros((), jnp.float32)
    difference = predicted.astype(jnp.float32) - x0.astype(jnp.float32)
    error = jnp.square(difference[:, 1:] - difference[:, :-1])
    return jnp.mean(error.mean(tuple(range(1, error.ndim))) * alpha_bar(schedule, t))


def pseudo_huber(error: jax.Array, c: float) -> jax.Array:
    """sqrt(error^2 + c^2) - c, cell by cell, float32, shape of error: the square below c, the absolute value above.

    Distillation by consistency goes astray with squares, which a few cells far off rule (arXiv 2310.04378, 2310.14189).
    """
    return jnp.sqrt(jnp.square(error.astype(jnp.float32)) + c**2) - c


def pixel_weights(mask: jax.Array, face_box: jax.Array, grid: tuple[int, int], person: float, face: float) -> jax.Array:
    """Loss weight per latent cell [B,F,h,w,1] float32: 1, `person` more on the person and `face` more on the face.

    mask: [B,F,H,W], 1 on the person; face_box: [B,F,4] as in `box_mask`; grid: (h, w).
    """
    mask = mask.astype(jnp.float32)
    weight = 1.0 + person * mask + face * box_mask(face_box, mask.shape[2:])
    return jax.image.resize(weight, weight.shape[:2] + grid, "linear", antialias=True)[..., None]


def box_mask(boxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    """How far boxes cover each pixel: [..., 4] xyxy in pixels -> [..., H, W] float32 in [0, 1].

    A box without area (no face found) covers nothing; StableAnimator's mask covers the whole frame then, which
    doubles the loss of the frames that should not count. size: (H, W).
    """
    boxes = boxes.astype(jnp.float32)
    across = _coverage(boxes[..., 0], boxes[..., 2], size[1])
    down = _coverage(boxes[..., 1], boxes[..., 3], size[0])
    return down[..., :, None] * across[..., None, :]


def _coverage(low: jax.Array, high: jax.Array, n: int) -> jax.Array:
    """Share of each of n unit cells that the interval [low, high] covers. low, high: [...]; returns [..., n]."""
    left = jnp.arange(n, dtype=jnp.float32)
    return jnp.clip(jnp.minimum(high[..., None], left + 1) - jnp.maximum(low[..., None], left), 0.0, 1.0)
