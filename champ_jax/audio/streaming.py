"""Music features of sound that is still arriving: a window over the last seconds, in one fixed shape.

`features` looks at a whole song: its beats, its loudest moments, four seconds of tempo to both sides. Here it is given the last
`frames` frames and no more, so memory and time do not grow and it compiles once; before the first sample there is silence. Beats are
tracked in that window too, and go on in a straight line beyond the last ones that are sure.
"""

from fractions import Fraction

import numpy as np

from champ_jax.audio.beats import track_beats
from champ_jax.audio.features import FEATURE_RATE, FRAME_BUCKET, features, stack_context
from champ_jax.errors import UserError

LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000
SETTLED = 1.0  # seconds before the window's end whose beats the tracker still moves from window to window
LINE = 16  # beats before that, through which the line goes that is followed to the window's end
FLUX = slice(161, 165)  # columns of rich192 that are divided by a percentile over all frames
TRACK_EVERY = 1.0  # seconds; the dearest part of a window by far
SPARE = 2.0  # seconds of sound that may arrive before they are asked for


class MusicStream:
    """The last seconds of a song and their features. Feed it with `push`, ask with `ready` and `window`.

    Frame i describes the sound around i / fps seconds, as in `features`. The ring is `frames` long and SPARE seconds: whoever pushes more
    than that without asking has lost the oldest.
    """

    def __init__(self, rate: int, fps: float | Fraction, spec: str = "rich192", frames: int = FRAME_BUCKET):
        """rate: of the sound, in Hz. fps: frames a second. spec: as of `features`. frames: length of the window, 10.7 s at 24 a second.

        Raises UserError for a rate that is not a whole number of Hz from 8,000 to 192,000."""
        if not LOWEST_RATE <= rate <= HIGHEST_RATE or rate != int(rate):
            raise UserError(f"rate is {rate}: give the sound's samples a second, a whole number from {LOWEST_RATE} to {HIGHEST_RATE}")
        self.fps, self.spec, self.frames = fps, spec, frames
        self._resampler = None
        if rate != FEATURE_RATE:
            import soxr

            self._resampler = soxr.ResampleStream(rate, FEATURE_RATE, 1, dtype="float32", quality="HQ")
        self._size = round(frames * FEATURE_RATE / fps)
        self._ring = np.zeros(self._size + round(SPARE * FEATURE_RATE), np.float32)
        self._heard = 0
        self._beats, self._tracked = np.zeros(0), -np.inf

    def push(self, block: np.ndarray) -> None:
        """Takes the next f32 [S] of the sound. The resampler holds back some ms of it until more comes."""
        if self._resampler is not None:
            block = self._resampler.resample_chunk(block)
        if len(block):
            self._ring = np.concatenate([self._ring, block])[-len(self._ring) :]
            self._heard += len(block)

    @property
    def ready(self) -> int:
        """How many frames, from the song's first, have been heard."""
        return int(self._heard * self.fps / FEATURE_RATE)

    def window(self, end: int) -> np.ndarray:
        """Features f32 [frames, D] of frames end - frames to end - 1, silence before the song's first; end <= ready, and not before
        that of the last call."""
        stop = len(self._ring) - self._heard + round(end * FEATURE_RATE / self.fps)
        sound = self._ring[stop - self._size : stop]
        begin = (end - self.frames) / self.fps
        if end - self._tracked >= TRACK_EVERY * self.fps:
            self._beats = begin + steady_beats(track_beats(sound, FEATURE_RATE), self._size / FEATURE_RATE)
            self._tracked = end
        beats = self._beats - begin
        if self.spec == "fact35":
            return features(sound, FEATURE_RATE, self.fps, self.spec, beats)
        rows = features(sound, FEATURE_RATE, self.fps, "rich192", beats)
        heard = rows[-min(max(end, 1), self.frames) :, FLUX]
        # The percentile of a window that is silent for the most part, before a song's first seconds, is no measure of its flux.
        rows[:, FLUX] /= np.maximum(np.percentile(heard, 95, axis=0), 1e-2)
        return rows if self.spec == "rich192" else stack_context(rows)


def steady_beats(beats: np.ndarray, seconds: float) -> np.ndarray:
    """Beats tracked in a window of `seconds`, those in its last second replaced by the continuation of the ones before: f64 [m]. They go
    on until the window is tracked again.

    The tracker knows a beat also by what follows it; its latest ones jump about. beats: [n] seconds, ascending.
    """
    beats = np.asarray(beats, np.float64)
    settled = beats[beats < seconds - SETTLED]
    if len(settled) < 3:
        return settled
    line = settled[-LINE:]
    period, first = np.polyfit(np.arange(len(line)), line, 1)
    ahead = first + period * np.arange(len(line), len(line) + np.ceil((seconds + TRACK_EVERY - line[-1]) / period) + 1)
    return np.concatenate([settled, ahead[ahead > settled[-1] + period / 2]])
