"""A dance to sound that is still arriving: the causal counterpart of music.py. State of a fixed size, one compilation."""

import functools
from typing import Any

import numpy as np

from champ_jax.audio.streaming import MusicStream
from champ_jax.errors import UserError
from champ_jax.infer.chain import check_shoulders
from champ_jax.infer.music import Motion, compiled_m2p, dance_window
from champ_jax.infer.photo import Photo
from champ_jax.pose import skeleton as sk
from champ_jax.pose.normalise import anchor
from champ_jax.pose.retarget import bone_ratios, outside, retarget, start_from

MEMORY_SECONDS = 10.0  # of the dance, from which bone lengths are known
OPENING_SECONDS = 1.0  # in which the dance leaves the photo's pose
HOLD_SECONDS, GLIDE_SECONDS = 0.5, 0.1  # how slowly a shift back into the frame is given up, and how quickly it is made


class LiveMotion:
    """Poses at `motion_fps`, `hop` at a time, `ahead` frames after their sound.

    Every hop M2P dances a whole window that ends with the newest sound, from the pose that the dance had at the window's first frame. Its
    last hop + ahead frames count: the first `ahead` of them fade over from what the last window expected, the last `ahead` are expected
    in turn. Then the dance is fitted to the photo's person as in `chain.fitted_dance`, looking at the past alone.
    """

    def __init__(self, pipeline: Any, photo: Photo, face: np.ndarray | None, rate: int, hop: int, ahead: int):
        """pipeline: a `Pipeline` with M2P. face: f32 [E] or None. rate: of the sound, in Hz. hop, ahead: frames.

        Raises UserError for a photo without shoulders, a rate that is none, and a hop beyond the window."""
        settings, config = pipeline.settings, pipeline.config.m2p
        check_shoulders(photo.confidence)
        if not 1 <= hop < settings.motion_window - ahead or ahead < 0:
            raise UserError(f"hop {hop}, ahead {ahead}: together they must be shorter than M2P's window of {settings.motion_window} frames")
        self.fps, self.window, self.hop, self.ahead = settings.motion_fps, settings.motion_window, hop, ahead
        self.size = photo.image.shape[:2]
        self.reference = photo.keypoints, photo.confidence
        face = np.zeros(config.face_dim, np.float32) if face is None else face
        self.music = MusicStream(rate, self.fps, settings.music_spec, max(self.window, round(MEMORY_SECONDS * self.fps)))
        own = anchor(*self.reference)
        self._dance = functools.partial(dance_window, compiled_m2p(config), pipeline.params["m2p"], face, own)
        still = [np.repeat(array[None], self.music.frames, 0) for array in (*self.reference, face)]
        self._past = Motion(*still)  # as M2P danced, before it is fitted
        self._expected = [array[:0] for array in still]
        self._at = photo.keypoints  # the last fitted frame, before it is shifted into the frame
        self._opening: np.ndarray = np.zeros((0, sk.J, 2), np.float32)
        self._held, self._shift = np.zeros((2, 2)), np.zeros((2, 2))
        self.made = 0
        # Everything is compiled and loaded here; in silence no beats would be looked for.
        rehearsal = MusicStream(rate, self.fps, settings.music_spec, self.music.frames)
        rehearsal.push(np.random.default_rng(0).standard_normal(rate).astype(np.float32))
        self._dance(rehearsal.window(rehearsal.ready)[-self.window :], *self.reference)

    def step(self) -> Motion | None:
        """The next `hop` frames, or None while their sound has not been heard."""
        end = self.made + self.hop + self.ahead
        if self.music.ready < end:
            return None
        past, late = self._past, self.hop + self.ahead
        begin = late - self.window  # the window's first frame, counted from the next one
        found = self._dance(self.music.window(end)[-self.window :], past.keypoints[begin], past.confidence[begin])
        newest = [_fade(old, new[-late:]) for old, new in zip(self._expected or [n[:0] for n in found], found)]
        self._expected = [array[self.hop :] for array in newest]
        self._past = Motion(*(np.concatenate([old, new[: self.hop]])[self.hop :] for old, new in zip(past, newest)))
        keypoints = self._fit(past.keypoints[-1], Motion(*newest))
        self.made += self.hop
        return Motion(keypoints, *(array[: self.hop].astype(np.float32) for array in newest[1:]))

    def _fit(self, before: np.ndarray, motion: Motion) -> np.ndarray:
        """The first `hop` frames of the newest ones with the photo's bones and place, f32 [hop,J,2]; before: [J,2], the last one."""
        ratios = bone_ratios(self._past.keypoints, self._past.confidence, *self.reference)
        clip = retarget(np.concatenate([before[None], motion.keypoints]), motion.confidence, *self.reference, ratios)
        # Each hop's hips go on from where the last one's ended.
        clip = clip + (_hips(self._at) - _hips(clip[0]))
        clip, self._at = clip[1:], clip[self.hop]
        if len(self._opening) < OPENING_SECONDS * self.fps:
            opening = np.concatenate([self._opening, clip])
            clip = start_from(opening, *self.reference, self.fps, OPENING_SECONDS)[len(self._opening) :]
            self._opening = opening[: len(self._opening) + self.hop]
        return self._inside(clip, motion.confidence)

    def _inside(self, clip: np.ndarray, confidence: np.ndarray) -> np.ndarray:
        """`keep_inside` with what is expected for a look ahead: a peak is held and slowly given up, and the shift glides there."""
        needed = np.stack(outside(clip, confidence, *self.reference, self.size))
        keep, step = np.exp(-1 / (HOLD_SECONDS * self.fps)), 1 - np.exp(-1 / (GLIDE_SECONDS * self.fps))
        shifts = np.zeros((self.hop, 2))
        for i in range(self.hop):
            self._held = np.maximum(needed[:, i : i + self.ahead + 1].max(1), keep * self._held)
            self._shift = self._shift + step * (self._held - self._shift)
            shifts[i] = self._shift[0] - self._shift[1]
        return (clip[: self.hop] + shifts[:, None]).astype(np.float32)


def _fade(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """new [n,...] with its first frames faded over from old [m,...], m <= n."""
    share = np.sin(np.pi / 2 * (np.arange(len(old)) + 0.5) / max(len(old), 1)) ** 2
    share = share.reshape(-1, *[1] * (new.ndim - 1))
    return np.concatenate([(1 - share) * old + share * new[: len(old)], new[len(old) :]])


def _hips(keypoints: np.ndarray) -> np.ndarray:
    """[J,2] -> [2]"""
    return (keypoints[sk.RIGHT_HIP] + keypoints[sk.LEFT_HIP]) / 2
