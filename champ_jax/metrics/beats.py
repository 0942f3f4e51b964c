"""Whether a dance moves with the beat: both published scores, and what of them is more than chance. All in seconds.

The published scores count frames (a miss of 3 frames gives exp(-1/2)): at 30 fps that is twice as long as at 60, and noise around one
pose scores as high as published systems do. `alignment_corrected` is 0 for noise at any rate. Read it beside the energy
ratio (metrics/motion.py): whoever stands still has many local minima.
"""

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.signal import argrelextrema, find_peaks

from champ_jax.metrics.motion import joint_speed

SIGMA = 0.05
"""Seconds by which a movement may miss the beat for a score of exp(-1/2)."""
SMOOTHING = 0.083
"""Seconds; 5 frames at 60 fps, as in Bailando."""
SHIFTS = 16
"""Phases of one beat over which the chance level is averaged."""
F1_WINDOW = 0.07
"""Seconds either way within which beats count as found, as in MIREX and mir_eval."""
COMPAT_FRAMES, COMPAT_SMOOTHING, COMPAT_ORDER = 3.0, 5.0, 10
"""Frames: the tolerance of both published scores, Bailando's smoothing, and the neighbours on either side that FACT compares with."""


def motion_beats(speed: np.ndarray, fps: float) -> np.ndarray:
    """Times in seconds of the local minima of a speed curve [F-1], smoothed by 83 ms: where a movement ends."""
    smooth = gaussian_filter1d(np.asarray(speed, np.float64), SMOOTHING * fps)
    # A stop exactly on a frame gives two equal speeds, before and after it: a plateau, whose middle counts.
    _, plateaus = find_peaks(-smooth, plateau_size=1)
    # Speed i lies between frames i and i + 1.
    return ((plateaus["left_edges"] + plateaus["right_edges"]) / 2 + 0.5) / fps


def alignment(movement: np.ndarray, music: np.ndarray, sigma: float = SIGMA) -> float:
    """Bailando's form: mean over music beats of exp(-d^2 / (2 sigma^2)), d to the nearest motion beat; in [0,1].

    movement [n], music [m]: times in seconds. Without any motion beat the score is 0.
    """
    if len(movement) == 0 or len(music) == 0:
        return 0.0
    apart = np.abs(np.asarray(music)[:, None] - np.asarray(movement)[None]).min(1)
    return float(np.exp(-(apart**2) / (2 * sigma**2)).mean())


def alignment_of_motion(movement: np.ndarray, music: np.ndarray, sigma: float = SIGMA) -> float:
    """FACT's form, also called beat alignment: mean over motion beats, d to the nearest music beat; in [0,1].

    movement, music: times in seconds, [n] and [m]. Bailando's rewards many motion beats, this one few: name which is meant.
    """
    return alignment(music, movement, sigma)


def alignment_bailando(positions: np.ndarray, music_frames: np.ndarray) -> float:
    """The number that Bailando, EDGE and Lodge publish (utils/beat_align_score.py): joints [F,J,2 or 3], music beats [m] as frames.

    Everything counts frames, so only values of one frame rate compare; theirs is 60.
    """
    speed = gaussian_filter(joint_speed(positions), COMPAT_SMOOTHING)
    return alignment(argrelextrema(speed, np.less)[0], music_frames, COMPAT_FRAMES)


def alignment_fact(positions: np.ndarray, music_frames: np.ndarray) -> float:
    """The number that FACT and POPDG publish: joints [F,J,2 or 3], music beats [m] as frames; no smoothing, minima of 21 frames."""
    minima = argrelextrema(joint_speed(positions), np.less, order=COMPAT_ORDER)[0]
    return alignment_of_motion(minima, music_frames, COMPAT_FRAMES)


def shift_curve(movement: np.ndarray, music: np.ndarray, seconds: float, shifts: np.ndarray) -> np.ndarray:
    """f64 [n]: Bailando's score of the same movement with the music's beats shifted by each of `shifts` [n] seconds.

    movement [k], music [m]: times in a clip of `seconds`, around which beats are shifted in a circle. Where its peak lies tells how
    much sound and picture are apart; how much it stands out, whether there is any relation at all.
    """
    return np.array([alignment(movement, np.sort((np.asarray(music) + shift) % seconds)) for shift in shifts])


def alignment_corrected(movement: np.ndarray, music: np.ndarray) -> float:
    """Beat alignment above chance: 0 for movement that ignores the music, 1 for a perfect fit.

    Chance is the mean score of the same movement against the music shifted by 16 phases inside one beat period; a dance that
    merely moves often has a high chance level too. movement [n], music [m]: times in seconds; nan for fewer than two beats.
    """
    if len(music) < 2:
        return float("nan")
    period = float(np.median(np.diff(music)))
    shifted = [alignment(movement, np.asarray(music) + period * i / SHIFTS) for i in range(SHIFTS)]
    chance = float(np.mean(shifted))
    return (alignment(movement, music) - chance) / (1 - chance)


def peak_lag(movement: np.ndarray, music: np.ndarray, seconds: float) -> float:
    """Seconds, within half a beat either way, by which the movement [n] follows the music's beats [m] most closely; nan without."""
    if len(music) < 2 or len(movement) == 0:
        return float("nan")
    half = float(np.median(np.diff(music))) / 2
    shifts = np.linspace(-half, half, 2 * SHIFTS + 1)
    return float(shifts[shift_curve(movement, music, seconds, shifts).argmax()])


def f1(movement: np.ndarray, music: np.ndarray) -> float:
    """F-measure of motion beats [n] as a guess of the music's beats [m], each matched once within 70 ms: in [0,1]."""
    if len(movement) == 0 or len(music) == 0:
        return 0.0
    matched, place = 0, 0
    # Both ascend and all windows are of one width: taking the earliest that fits is a largest matching.
    for beat in np.sort(music):
        while place < len(movement) and movement[place] < beat - F1_WINDOW:
            place += 1
        if place < len(movement) and movement[place] <= beat + F1_WINDOW:
            matched, place = matched + 1, place + 1
    return 2 * matched / (len(movement) + len(music))


def scores(stops: np.ndarray, music: np.ndarray, joints: np.ndarray, fps: float) -> dict[str, float]:
    """{metric: scalar} of joints [F,J,2 or 3] that stop at [n] seconds (`motion_beats`) to beats [m], m >= 2, that fall into them."""
    frames = music * fps
    return {
        "beat_corrected": alignment_corrected(stops, music),
        "beat_music": alignment(stops, music),
        "beat_motion": alignment_of_motion(stops, music),
        "beat_f1": f1(stops, music),
        "beat_lag": peak_lag(stops, music, len(joints) / fps),
        "beat_bailando": alignment_bailando(joints, frames),
        "beat_fact": alignment_fact(joints, frames),
    }
