"""Frames of a stream of poses, a few at a time: the denoiser sees a window whose past is finished. One compiled shape a quality.

After the micro-chunks and causal windows of PersonaLive (arXiv 2512.11253). In every denoising step the window's past frames are what the
finished ones look like under that step's noise, each under its own fixed noise, so the temporal modules see where the frames come from;
what is new is denoised from noise. At the last timestep of a zero terminal SNR, the only one of a one-step sampler, noise hides the
past; the modules then know it by its poses, which lie in the same window.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from champ_jax.diffusion.guidance import classifier_free
from champ_jax.diffusion.samplers import Steps, make_steps, sampler_step, start
from champ_jax.diffusion.schedule import Schedule, add_noise
from champ_jax.infer.maps import DrawnMaps
from champ_jax.infer.mix import whole
from champ_jax.infer.people import Person


class Quality(NamedTuple):
    """What a frame costs. steps: of denoising. context: finished frames in the window. size: (H, W) that is computed."""

    steps: int
    context: int
    size: tuple[int, int]


class Past(NamedTuple):
    """The window's finished frames, on the device: latents [c,h,w,C], guidance [c,h,w,D0], face tokens [c,n,Dc] or None, and
    known f32 [c], 0 where there was no frame yet."""

    latents: jax.Array
    guidance: jax.Array
    face: jax.Array | None
    known: jax.Array


class LiveFrames:
    """Draws `hop` frames after `hop` frames of poses in the pixels of `quality.size`."""

    def __init__(self, pipeline: Any, person: Person, quality: Quality, hop: int, seed: int, guidance_scale: float):
        """person: its photos at `quality.size`. Compiles nothing yet: the first `draw` does."""
        self.quality, self.hop, self.seed, self.scale = quality, hop, seed, guidance_scale
        self._params, self._functions, self._schedule = pipeline.params, pipeline.functions, pipeline.schedule
        self._kinds, self._strength = pipeline.guidance_kinds, pipeline.settings.guidance_strength
        self._person, _, self._context = self._functions.encode_photos(self._params, person.images, person.skeletons, person.weights)
        self._steps = make_steps(self._schedule, quality.steps, pipeline.settings.sampler)
        vae = pipeline.config.vae
        self._shape = (*(side // vae.downsampling for side in quality.size), vae.latent_channels)
        self._faces = pipeline.config.face_id is not None and person.face is not None
        self.past: Past | None = None

    def draw(self, first: int, keypoints: np.ndarray, confidence: np.ndarray, face: np.ndarray) -> np.ndarray:
        """Frames u8 [hop,H,W,3] of poses [hop,J,2] in pixels, [hop,J] and face embeddings [hop,E]; first: the first one's number."""
        skeletons = whole({"music": DrawnMaps(keypoints, confidence, self.quality.size)}).read(self._kinds, np.arange(self.hop))
        guidance = self._functions.encode_guidance(self._params, self._strength, *skeletons)
        tokens = self._functions.encode_face(self._params, face.astype(np.float32), self._context) if self._faces else None
        context = self.quality.context
        if self.past is None:
            # Nothing came before: as if the first pose had always been held.
            blank = np.zeros((1, *self._shape), np.float32), guidance[:1], None if tokens is None else tokens[:1], np.zeros(1, np.float32)
            self.past = _last(Past(*blank), context)
        noise = np.stack([self._noise(i) for i in range(first - context, first + self.hop)])
        latents, self.past = _denoise_hop(
            self._functions.denoise, self.scale != 1, self._params, self._schedule, self._steps, self.scale, self.past, guidance, tokens,
            noise, np.array([self.seed % 2**32, first % 2**32], np.uint32), self._person, self._context,
        )  # fmt: skip
        return np.asarray(self._functions.decode(self._params, latents))

    def follow(self, other: "LiveFrames") -> None:
        """Goes on where a painter of another quality has stopped; one of another size cannot use its past."""
        same = other.past is not None and other.quality.size == self.quality.size
        self.past = _last(other.past, self.quality.context) if same and other.quality.context else None

    def _noise(self, frame: int) -> np.ndarray:
        """Unit normal f32 [h,w,C] of a frame; of one that is not negative, the same as `initial_noise`'s."""
        return np.random.default_rng([self.seed, frame % 2**32]).standard_normal(self._shape, np.float32)


def _last(past: Past, count: int) -> Past:
    """The last `count` frames of `past`; what is missing repeats its first frame, as not known. On the host: nothing is compiled."""
    index = np.arange(-count, 0)
    missing = index < -len(past.known)
    index = np.where(missing, -len(past.known), index)
    found = jax.tree.map(lambda array: np.asarray(array)[index], past)
    return found._replace(known=np.where(missing, 0, found.known).astype(np.float32))


@functools.partial(jax.jit, static_argnames=("denoise", "guided"))
def _denoise_hop(
    denoise, guided, params, schedule: Schedule, steps: Steps, scale, past: Past, guidance, tokens, noise, number, person, context
):
    """(latents of the new frames [h,...], the past with them): guidance [h,...] and tokens of the new ones, noise [c+h,...]; number:
    u32 [2], the seed and the first new frame, of the noise that "lcm" adds in every step."""
    hop = len(guidance)
    count = len(past.known)
    guidance, latents, known = (
        jnp.concatenate(pair) for pair in zip((past.guidance, past.latents, past.known), (guidance, noise[count:], jnp.zeros(hop)))
    )
    frames = None if tokens is None else {"face": jnp.concatenate([past.face, tokens])[None]}
    mask = known[None, :, None, None, None] > 0

    key = jax.random.fold_in(jax.random.key(number[0]), number[1])

    def step(state, now):
        t, mix, i = now
        x = jnp.where(mask, add_noise(schedule, latents[None], noise[None], t), state.x)
        predicted = denoise(params, x, t[None], context, guidance[None], person, frames)
        if guided:
            # As everywhere, the unconditional half sees the maps, but no photo.
            blank = denoise(params, x, t[None], jax.tree.map(jnp.zeros_like, context), guidance[None], None, None)
            predicted = classifier_free(blank, predicted, scale)
        fresh = jax.random.normal(jax.random.fold_in(key, i), x.shape)
        return sampler_step(schedule, mix, state._replace(x=x), predicted, t, fresh), None

    each = (jnp.asarray(steps.timesteps), jnp.asarray(steps.mix), jnp.arange(len(steps.timesteps)))
    x = jax.lax.scan(step, start(noise[None]), each)[0].x[0]
    finished = jnp.where(mask[0], latents, x)
    face = None if tokens is None else frames["face"][0, hop:]
    return x[count:], Past(finished[hop:], guidance[hop:], face, jnp.ones(count))
