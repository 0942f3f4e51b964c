"""Latents of a clip of any length: DDIM with classifier-free guidance over overlapping windows of frames.

The clip lies in host memory and windows of one fixed shape go through the device, so device memory and compile time do
not grow with the clip.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from champ_jax.diffusion.guidance import classifier_free
from champ_jax.diffusion.samplers import ddim_step, previous_timesteps, timesteps
from champ_jax.diffusion.schedule import Schedule
from champ_jax.diffusion.windows import champ_windows, window_weights, windows
from champ_jax.errors import UserError

# denoise(params, latents [B,F,h,w,C], t, context [B,L,Dc], guidance [B,F,h,w,D0], person, frames) -> [B,F,h,w,C].
# `person` and `frames` are trees of arrays [B,...] and [B,F,...], or None where no photo is seen. Compared by identity for
# the compile cache: make it once.
Denoise = Callable[..., jax.Array]


class Conditions(NamedTuple):
    """What is known about one clip before its frames are drawn.

    guidance: [F,h,w,D0], the fused output of the guidance encoders (host).
    person: tree of arrays [1,...] of what the photos say: keys and values by block, what each photo counts, the face.
    context: [1,L,Dc], the photos' image tokens.
    frames: tree of arrays [F,...] of what they say of each frame (host): which photo which cell reads, the face; None for nothing.
    """

    guidance: np.ndarray
    person: Any
    context: jax.Array
    frames: Any = None


@dataclass(frozen=True)
class SampleSettings:
    """How a clip is sampled.

    steps: DDIM steps. guidance_scale: strength of classifier-free guidance; 1 switches it off at half the cost.
    guidance_strength: what the maps count in the first step and in the last, and in a straight line between.
    window, overlap: frames denoised together and shared by neighbours. window_batch: windows denoised at once.
    compat: "champ" reproduces CHAMP's pipeline: windows that wrap around the end of the clip, a plain mean where they
      overlap, and diffusers' previous timesteps.
    """

    steps: int = 20
    guidance_scale: float = 3.5
    guidance_strength: tuple[float, float] = (1.0, 1.0)
    window: int = 24
    overlap: int = 4
    window_batch: int = 1
    compat: str = ""

    def __post_init__(self):
        if self.steps < 1:
            raise UserError(f"steps is {self.steps}: sampling needs at least 1")
        if not 1 <= self.guidance_scale < np.inf:
            raise UserError(f"guidance scale is {self.guidance_scale}: give 1 (no guidance) or more")
        if len(self.guidance_strength) != 2 or not all(0 <= strength < np.inf for strength in self.guidance_strength):
            raise UserError(
                f"guidance strength is {self.guidance_strength}: give two numbers of at least 0, of the first step and the last"
            )
        if self.window < 1 or self.window_batch < 1 or not 0 <= self.overlap < self.window:
            raise UserError(
                f"window {self.window}, overlap {self.overlap}, window_batch {self.window_batch}: expected a window and a batch of at "
                "least 1 and an overlap from 0 to less than the window"
            )
        if self.compat not in ("", "champ"):
            raise UserError(f"compat is {self.compat!r}: give '' or 'champ'")


def initial_noise(seed: int, frames: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Unit normal noise f32 [1,F,h,w,C] for `shape` (h,w,C); a frame's noise does not depend on the clip's length.

    Drawn on the host, so that a seed means the same on every device. Raises UserError for a negative seed.
    """
    if seed < 0:
        raise UserError(f"seed is {seed}: give 0 or more")
    return np.stack([np.random.default_rng([seed, i]).standard_normal(shape, np.float32) for i in range(frames)])[None]


@partial(jax.jit, static_argnames=("denoise", "guided"))
def _predict(denoise, guided, params, latents, t, guidance, person, context, frames, scale):
    """Guided prediction for a batch of windows [W,n,h,w,C]; the unconditional half sees no photo, but the guidance, and who is where."""
    count = latents.shape[0]
    person, context = jax.tree.map(lambda x: jnp.repeat(x, count, 0), (person, context))
    cond = denoise(params, latents, t, context, guidance, person, frames)
    if not guided:
        return cond.astype(jnp.float32)
    where = {name: values for name, values in (frames or {}).items() if name == "weight"}
    uncond = denoise(params, latents, t, jax.tree.map(jnp.zeros_like, context), guidance, None, where)
    return classifier_free(uncond, cond, scale)


_ddim_step = jax.jit(ddim_step)


def sample_latents(
    denoise: Denoise,
    params: Any,
    latents: np.ndarray,
    conditions: Conditions,
    schedule: Schedule,
    settings: SampleSettings,
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Denoises `latents` (unit normal, f32 [1,F,h,w,C]) to clean latents of the same shape.

    Every step predicts window by window, averages where windows overlap, and moves the whole clip on by one DDIM step.
    on_progress(done, total) is called after every batch of windows. Raises UserError for impossible windows.
    """
    clip = np.asarray(latents, np.float32)[0]
    index, weights = _plan(len(clip), settings)
    batches = [np.arange(i, i + settings.window_batch) for i in range(0, len(index), settings.window_batch)]
    visited = timesteps(schedule, settings.steps)
    previous = previous_timesteps(schedule, visited, diffusers=settings.compat == "champ")
    guided = settings.guidance_scale != 1
    for number, (t, t_previous) in enumerate(zip(visited, previous, strict=True)):
        total = np.zeros_like(clip)
        strength = np.float32(np.interp(number, [0, max(settings.steps - 1, 1)], settings.guidance_strength))
        for done, batch in enumerate(batches):
            # The last batch is filled up with copies of the last window, to keep one compiled shape.
            frames = index[np.minimum(batch, len(index) - 1)]
            predicted = _predict(
                denoise, guided, params, clip[frames], t, strength * conditions.guidance[frames], conditions.person,
                conditions.context, jax.tree.map(operator.itemgetter(frames), conditions.frames), settings.guidance_scale,
            )  # fmt: skip
            for window, value in zip(batch[batch < len(index)], np.asarray(predicted), strict=False):
                total[index[window]] += weights[window][:, None, None, None] * value
            if on_progress is not None:
                on_progress(number * len(batches) + done + 1, settings.steps * len(batches))
        clip = np.asarray(_ddim_step(schedule, clip[None], total[None], t, t_previous))[0]
    return clip[None]


def _plan(frames: int, settings: SampleSettings) -> tuple[np.ndarray, np.ndarray]:
    """Frame numbers int [W,n] of every window and the weights f32 [W,n] of their predictions."""
    if settings.compat == "champ":
        index = champ_windows(frames, settings.window, settings.overlap)
        return np.asarray(index), window_weights(index, "uniform")
    index = windows(frames, settings.window, settings.overlap)
    return np.asarray(index), window_weights(index)


def in_chunks(function: Callable[..., jax.Array], values: tuple[np.ndarray, ...], size: int) -> np.ndarray:
    """function over arrays `values`, each [F,...], in chunks of `size` frames, results on the host; one compiled shape.

    The last chunk is filled up with copies of its last frame, which are thrown away.
    """
    results = []
    total = len(values[0])
    for start in range(0, total, size):
        index = np.minimum(np.arange(start, start + size), total - 1)
        results.append(np.asarray(function(*(array[index] for array in values)))[: total - start])
    return np.concatenate(results)
