"""Latents of a clip of any length: one compiled loop over denoising passes of windows, over a ring of the frames under way.

The host says which window takes which step next (infer/wavefront.py), puts in frames and takes out those that are done; the
rest happens on the device. Shapes do not depend on the clip, but for CHAMP's windows, which wrap around its end: neither do memory
and compile time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from champ_jax.diffusion.samplers import SAMPLERS, make_steps
from champ_jax.diffusion.schedule import Schedule
from champ_jax.errors import UserError
from champ_jax.infer.ring import Denoise, FrameConditions, Seen, Static, Table, empty_ring, make_orders, put, run_orders, take, window_mesh
from champ_jax.infer.wavefront import Round, capacity, make_plan, rounds

MOST_ROUNDS = 8
"""Passes of windows that are handed to the device at once: what a stop waits for."""


class ClipConditions(NamedTuple):
    """What is known about a clip that lies in memory: guidance [F,h,w,D0] and frames, a tree of [F,...] or None, as in
    `FrameConditions`; person and context as in `Seen`."""

    guidance: np.ndarray
    person: Any
    context: jax.Array
    frames: Any = None


@dataclass(frozen=True)
class SampleSettings:
    """How a clip is sampled.

    steps: denoising steps. sampler: one of SAMPLERS.
    guidance_scale: strength of classifier-free guidance; 1 switches it off at half the cost.
    guidance_rescale: how far guided predictions are scaled back to the spread of unguided ones, 0 to 1 (arXiv 2305.08891).
    guidance_interval: the first and the last step that are guided, as shares of all, 0 to 1 (arXiv 2404.07724).
    guidance_strength: what the maps count in the first step and in the last, and in a straight line between.
    window, overlap: frames denoised together and shared by neighbours. window_batch: windows denoised at once.
    anchor: whether every window sees frame 0 in the place of its own first (MimicMotion's way, arXiv 2406.19680): all frames
      then depend on it.
    deep_every: the UNet's deeper levels run in every so many steps, and are taken from the last time in the others
      (DeepCache, arXiv 2312.00858); 1 always runs them.
    compat: "champ" reproduces CHAMP's pipeline: windows that wrap around the end of the clip, a plain mean where they
      overlap, and diffusers' previous timesteps.
    """

    steps: int = 20
    sampler: str = "ddim"
    guidance_scale: float = 3.5
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_strength: tuple[float, float] = (1.0, 1.0)
    window: int = 24
    overlap: int = 4
    window_batch: int = 1
    anchor: bool = False
    deep_every: int = 1
    compat: str = ""

    def __post_init__(self):
        if self.steps < 1 or self.deep_every < 1:
            raise UserError(f"steps is {self.steps}, deep_every {self.deep_every}: sampling needs at least 1 of each")
        if self.sampler not in SAMPLERS:
            raise UserError(f"sampler is {self.sampler!r}: give one of {', '.join(SAMPLERS)}")
        if not 1 <= self.guidance_scale < np.inf:
            raise UserError(f"guidance scale is {self.guidance_scale}: give 1 (no guidance) or more")
        if not 0 <= self.guidance_rescale <= 1:
            raise UserError(f"guidance rescale is {self.guidance_rescale}: give a number from 0 to 1")
        if len(self.guidance_interval) != 2 or not 0 <= self.guidance_interval[0] <= self.guidance_interval[1] <= 1:
            raise UserError(f"guidance interval is {self.guidance_interval}: give two numbers from 0 to 1, the smaller first")
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
        if self.anchor and (self.overlap == 0 or self.deep_every > 1):
            raise UserError("anchor takes windows that overlap, and deep_every 1: kept features are of a window's own frames")
        if self.compat == "champ" and (self.sampler != "ddim" or self.anchor):
            raise UserError("compat 'champ' is DDIM without an anchor: leave sampler and anchor out")

    @property
    def guided(self) -> bool:
        """Whether any step has an unconditional half."""
        return self.guidance_scale != 1


def initial_noise(seed: int, frames: int, shape: tuple[int, int, int], first: int = 0) -> np.ndarray:
    """Unit normal noise f32 [1,F,h,w,C] for `shape` (h,w,C), of frames from `first` on; a frame's noise does not depend on the
    clip's length.

    Drawn on the host, so that a seed means the same on every device. Raises UserError for a negative seed.
    """
    check_seed(seed)
    each = [np.random.default_rng([seed, i]).standard_normal(shape, np.float32) for i in range(first, first + frames)]
    return np.stack(each)[None]


def check_seed(seed: int) -> None:
    """Raises UserError for a negative seed."""
    if seed < 0:
        raise UserError(f"seed is {seed}: give 0 or more")


def make_table(schedule: Schedule, settings: SampleSettings) -> Table:
    """The steps of these settings. Raises UserError for more than the schedule has."""
    table = make_steps(schedule, settings.steps, settings.sampler, diffusers=settings.compat == "champ")
    number = np.arange(settings.steps)
    share = number / max(settings.steps - 1, 1)
    low, high = settings.guidance_interval
    scale = np.where((share >= low) & (share <= high), settings.guidance_scale, 1.0)
    strength = np.interp(share, [0, 1], settings.guidance_strength)
    # The unconditional half has features to keep from its first step on.
    begins = (scale != 1) & (np.append(1.0, scale[:-1]) == 1)
    deep = (number % settings.deep_every == 0) | begins
    return Table(table.timesteps, table.mix, scale.astype(np.float32), strength.astype(np.float32), deep)


def sample_frames(
    denoise: Denoise,
    params: Any,
    count: int,
    given: Callable[[int, int], tuple[np.ndarray, FrameConditions]],
    seen: Seen,
    schedule: Schedule,
    settings: SampleSettings,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[np.ndarray]:
    """Clean latents f32 [m,h,w,C] of a clip of `count` frames, from the first on, as they are done.

    given(first, m): noise [m,h,w,C] and conditions of frames first to first + m - 1, asked for in order; they may be past
    the clip's end, where they are thrown away, or serve to fill up a clip that is shorter than a window.
    seed: of the noise that some samplers add in every step. on_progress(done, total) counts passes of windows.
    Raises UserError for impossible settings.
    """
    champ, rows, chunk = settings.compat == "champ", settings.window_batch, settings.window
    plan = make_plan(count, settings.steps, settings.window, settings.overlap, champ, settings.anchor)
    table = make_table(schedule, settings)
    room = capacity(settings.steps, settings.window, settings.overlap, rows)
    room = max(room, plan.count) if champ else room
    slots = room + chunk
    # Windows that run the same networks go together: one that needs more would make all of them pay for it.
    order = rounds(plan, rows, room, [2 * deep + (scale != 1) for deep, scale in zip(table.deep, table.scale)])
    ring = static = None
    filled = done = passes = 0

    def end() -> int:
        return done + room

    for taken in _batches(order, min(settings.steps, MOST_ROUNDS), end):
        while filled <= max(int(each.frames.max()) for each in taken):
            noise, conditions = given(filled, chunk)
            if ring is None:
                static = _static(settings, table, conditions.frames is None)
                ring = empty_ring(slots, noise, conditions, denoise, params, seen, settings.steps, static)
            ring = put(ring, np.arange(filled, filled + chunk, dtype=np.int32), noise, conditions)
            filled += chunk
        orders = make_orders(taken, slots, min(settings.steps, MOST_ROUNDS))
        ring = run_orders(denoise, static, schedule, table, params, seen, ring, orders, np.uint32(seed % 2**32))
        passes += sum(int(each.weights.any(axis=1).sum()) for each in taken)
        finished = max([last for each in taken for _, last, step in each.advance if step == settings.steps - 1], default=done)
        while done < min(finished, count):
            size = min(chunk, finished - done, count - done)
            yield np.asarray(take(ring.state.x, np.arange(done, done + chunk) % slots))[:size]
            done += size
        done = finished
        if on_progress is not None:
            jax.block_until_ready(ring.total)  # what is only queued is not done
            on_progress(passes, plan.passes)


def _batches(order: Iterator[Round], most: int, end: Callable[[], int]) -> Iterator[list[Round]]:
    """Rounds in lists of up to `most`, whose frames are all before `end()`, which moves on with what is done."""
    waiting = next(order, None)
    while waiting is not None:
        taken: list[Round] = []
        while waiting is not None and len(taken) < most and waiting.frames.max() < end():
            taken.append(waiting)
            waiting = next(order, None)
        yield taken


def sample_latents(
    denoise: Denoise,
    params: Any,
    latents: np.ndarray,
    conditions: ClipConditions,
    schedule: Schedule,
    settings: SampleSettings,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Denoises `latents` (unit normal, f32 [1,F,h,w,C]) to clean latents of the same shape.

    As `sample_frames`, for clips that lie in memory; one that is shorter than a window gets copies of its last frame.
    """
    clip = np.asarray(latents, np.float32)[0]

    def given(first: int, size: int):
        index = np.minimum(np.arange(first, first + size), len(clip) - 1)
        return jax.tree.map(lambda x: x[index], (clip, FrameConditions(conditions.guidance, conditions.frames)))

    seen = Seen(conditions.person, conditions.context)
    found = sample_frames(denoise, params, len(clip), given, seen, schedule, settings, seed, on_progress)
    return np.concatenate(list(found))[None]


def _static(settings: SampleSettings, table: Table, alike: bool) -> Static:
    """Devices share the windows of a round, or its conditional and unconditional halves where there are twice as many; alike:
    whether both halves read the same, which frames of several people or with faces do not."""
    rows, mesh = settings.window_batch, window_mesh()
    devices = 1 if mesh is None else mesh.size
    halves = alike and settings.guided and rows % devices != 0 and 2 * rows % devices == 0
    mesh = mesh if halves or rows % devices == 0 else None
    noisy = bool(table.mix[:, :, 5].any())
    return Static(settings.guided, settings.guidance_rescale, noisy, settings.deep_every > 1, settings.anchor, mesh, halves)
