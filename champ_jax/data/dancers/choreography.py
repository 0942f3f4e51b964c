"""Dances made from motion capture and a song: real motion, composed music, an artificial pairing.

No freely licensed set pairs music with motion capture, so pairs are built: a real motion loop is warped in time until
its accents, the moments where the body nearly stops, fall on the beats of a song composed by code. The loop takes 2, 4,
8 or 16 beats, hence always divides the four-bar phrase, and starts on the phrase's first beat. So the pose is a function
of style and place in the phrase, both of which can be heard, and a model can learn to predict motion from music. It
learns this pairing, not how people choose to dance.
"""

import itertools
from collections.abc import Callable

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d

from champ_jax.audio.beats import beat_phase
from champ_jax.data.dancers.mocap import Motion
from champ_jax.data.dancers.songs import STYLES, Song

# Styles and the motions danced to them, by name in champ_jax.data.dancers.mocap.MOTIONS; "dance_b" is held out.
STYLE_MOTION = {"house": "jump", "funk": "spin", "pop": "walk", "hiphop": "kick", "disco": "dance_a"}
LOOP_BEATS = (2, 4, 8, 16)  # the divisors of a four-bar phrase
SMOOTHING_S = 0.083  # of the speed curve whose minima are accents; this and the next as in the beat-alignment score
BEAT_SIGMA_S = 0.05
SLOPES = (0.65, 1.5)  # slowest and fastest mean playback between two anchored accents
EASE = 0.3  # playback dips by this share on every beat and gains it between: accents also where the capture has none
STRETCH_COST = 1.0  # what stretching a beat by a factor e costs, in accents


def choreograph(motion: Motion, song: Song, fps: float) -> Motion:
    """A dance to a whole song: `motion` repeated, its accents on the song's beats.

    Args:
        motion: one period of a looping motion.
        song: its exact beats and downbeats (seconds) set the time.
        fps: frame rate of the result.

    Returns:
        `Motion` of round(seconds of the song * fps) frames; frame i is at i / fps seconds of the song.
    """
    times = np.arange(round(len(song.audio) / song.rate * fps)) / fps
    first = int(np.argmin(np.abs(song.beats_s - song.downbeats_s[0])))
    beats = beat_phase(times, song.beats_s) - first
    # the style's mean tempo, not the song's: the same pose is danced to the same beat in every song of a style
    style_beat_s = 60 / float(np.mean(STYLES[song.style].tempo))
    return motion.resample(warp(motion, style_beat_s)(beats), fps)


def warp(motion: Motion, beat_seconds: float) -> Callable[[np.ndarray], np.ndarray]:
    """The time warp of a loop: an increasing function from beats f64 [n] to seconds of the motion f64 [n].

    Anchors tie accents to whole beats, a monotone cubic runs through them, and an ease around each beat slows the body
    there. Beat 0 is an accent: the one from which the whole loop fits the beats best.
    """
    loop = loop_beats(motion.duration, beat_seconds)
    times, weights, speed = accents(motion)
    anchors = [_anchor(np.roll(times, -i), np.roll(weights, -i), motion.duration, loop, beat_seconds) for i in range(len(times))]
    anchors += [(np.zeros(1), np.array([start])) for start in times]  # played evenly
    warps = [_through(beats, seconds, motion.duration, loop) for beats, seconds in anchors]
    return max(warps, key=lambda candidate: _fit(candidate, speed, motion.fps, loop, beat_seconds))


def loop_beats(duration: float, beat_seconds: float) -> int:
    """How many beats a loop of `duration` seconds takes: the divisor of the phrase that changes its speed least."""
    return min(LOOP_BEATS, key=lambda n: abs(np.log(n * beat_seconds / duration)))


def accents(motion: Motion) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accents of a looping motion: local minima of its smoothed mean joint speed.

    Returns:
        `(seconds f64 [n], weights f64 [n], speed f64 [F])`. Seconds ascend; a weight is the depth of the minimum below
        the mean speed, as a share of it, at least 0.05; speed i, in metres a second, lies between frames i and i + 1.
        A motion of constant speed has one accent, at 0.
    """
    positions = motion.positions()
    steps = np.linalg.norm(np.roll(positions, -1, axis=0) - positions, axis=-1).mean(1) * motion.fps
    speed = gaussian_filter1d(steps.astype(np.float64), SMOOTHING_S * motion.fps, mode="wrap")
    lowest = _minima(speed)
    if not len(lowest):
        return np.zeros(1), np.ones(1), speed
    return (lowest + 0.5) / motion.fps, np.maximum(1 - speed[lowest] / speed.mean(), 0.05), speed


def _minima(loop):
    """Indices of the strict local minima of a periodic curve [n]."""
    return np.flatnonzero((loop < np.roll(loop, 1)) & (loop <= np.roll(loop, -1)))


def _anchor(times, weights, duration, loop, beat_seconds):
    """Puts accents on beats, times[0] on beat 0: beats [m] and seconds of the motion [m].

    A dynamic programme over (beat, accent) keeps the heaviest accents at the least stretch; no segment may leave SLOPES.
    Where no chain closes the loop, only the first accent is anchored.
    """
    times = np.append(times + duration * (times < times[0]), times[0] + duration)
    weights, last = np.append(weights, weights[0]), len(times) - 1
    chains = {(0, 0): (0.0, ((0, 0),))}  # (beat, accent) -> score and anchors of the best chain that ends there
    for beat, accent in itertools.product(range(1, loop + 1), range(1, last + 1)):
        if (accent == last) != (beat == loop):
            continue
        found = []
        for (b, a), (score, chain) in chains.items():
            if b < beat and a < accent:
                slope = (times[accent] - times[a]) / ((beat - b) * beat_seconds)
                stretch = np.log(slope * beat_seconds * loop / duration) ** 2 * (beat - b)
                if SLOPES[0] <= slope <= SLOPES[1]:
                    found.append((score + weights[accent] - STRETCH_COST * stretch, chain + ((beat, accent),)))
        if found:
            chains[beat, accent] = max(found)
    _, chain = chains.get((loop, last), chains[0, 0])
    beats = np.array([beat for beat, accent in chain if accent < last], np.float64)
    return beats, np.array([times[accent] for _, accent in chain if accent < last])


def _through(beats, seconds, duration, loop):
    """The warp through one loop's anchors: beats [m], seconds [m] -> function as `warp` returns it."""
    turns = np.arange(-2, 4)[:, None]  # whole loops on both sides, so that the cubic has equal slopes at the seam
    curve = PchipInterpolator((beats + turns * loop).ravel(), (seconds + turns * duration).ravel())

    def to_motion(position):
        position = np.asarray(position, np.float64)
        eased = position - EASE / (2 * np.pi) * np.sin(2 * np.pi * position)
        turn = np.floor(eased / loop)
        return curve(eased - turn * loop) + turn * duration

    return to_motion


def _fit(candidate, speed, fps, loop, beat_seconds):
    """How well the accents of a warped loop and the beats match, in [0, 1]: beats without an accent cost, and accents without a beat."""
    position = np.arange(loop * 48) / 48
    at = candidate(position)
    pace = np.diff(candidate(np.append(position, loop)))
    warped = np.interp(at * fps - 0.5, np.arange(len(speed)), speed, period=len(speed)) * pace
    warped = gaussian_filter1d(warped, SMOOTHING_S * 48 / beat_seconds, mode="wrap")
    stops = (_minima(warped) + 0.5) / 48
    if not len(stops):
        return 0.0
    apart = np.abs(np.arange(loop)[:, None] - stops)
    apart = np.minimum(apart, loop - apart) * beat_seconds
    close = np.exp(-(apart**2) / (2 * BEAT_SIGMA_S**2))
    return float(close.max(1).mean() + close.max(0).mean()) / 2
