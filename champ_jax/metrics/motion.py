"""How much a dance moves and whether it moves with the beat. Everything in seconds, so frame rates compare."""

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from champ_jax.pose.normalise import anchor
from champ_jax.pose.skeleton import BODY, THRESHOLD

SIGMA = 0.05  # seconds by which a movement may miss the beat for a score of exp(-1/2)
SMOOTHING = 0.083  # seconds; 5 frames at 60 fps, as in Bailando
SHIFTS = 16  # phases over which the chance level is averaged
FROZEN = 0.3  # of the real motion's energy; below, a dance counts as standing still whatever its beat score


def body_speed(keypoints: np.ndarray, confidence: np.ndarray, fps: float) -> np.ndarray:
    """Mean speed of the visible body joints in torso lengths a second: f32 [F-1].

    keypoints: [F,J,2] pixels, F >= 2. confidence: [F,J]; a step of a joint counts where both its ends are seen.
    A torso is the median length over the clip, so the size of the frame and of the person cancel out.
    """
    torso = float(np.median(np.asarray(anchor(keypoints, confidence).torso)))
    step = np.linalg.norm(np.diff(keypoints[:, BODY], axis=0), axis=-1)
    seen = np.minimum(confidence[1:, BODY], confidence[:-1, BODY]) >= THRESHOLD
    mean = (step * seen).sum(-1) / np.maximum(seen.sum(-1), 1)
    return (mean / torso * fps).astype(np.float32)


def motion_energy(keypoints: np.ndarray, confidence: np.ndarray, fps: float) -> float:
    """Mean of `body_speed` over the clip, in torso lengths a second; 0 for a person who stands still.

    keypoints [F,J,2] pixels, confidence [F,J], F >= 2.
    """
    return float(body_speed(keypoints, confidence, fps).mean())


def energy_ratio(energy: float, real: float) -> tuple[float, bool]:
    """Energy of a dance over that of real motion (scalars of `motion_energy`), and whether the dance is frozen.

    Read it beside every beat score: noise around one pose has many local minima near beats.
    """
    ratio = energy / max(real, 1e-6)
    return ratio, ratio < FROZEN


def jerk(keypoints: np.ndarray, confidence: np.ndarray, fps: float) -> float:
    """Mean third difference of the body joints seen in four successive frames, in torso lengths per second cubed.

    keypoints [F,J,2] pixels, confidence [F,J], F >= 4. Compare with real motion: a ratio above 2 is visible jitter.
    """
    torso = float(np.median(np.asarray(anchor(keypoints, confidence).torso)))
    third = np.linalg.norm(np.diff(keypoints[:, BODY], n=3, axis=0), axis=-1)
    seen = confidence[:, BODY] >= THRESHOLD
    seen = seen[3:] & seen[2:-1] & seen[1:-2] & seen[:-3]
    return float((third * seen).sum() / max(seen.sum(), 1) / torso * fps**3)


def motion_beats(speed: np.ndarray, fps: float) -> np.ndarray:
    """Times in seconds of the local minima of a speed curve [F-1], smoothed by 83 ms: where a movement ends."""
    smooth = gaussian_filter1d(np.asarray(speed, np.float64), SMOOTHING * fps)
    # A stop exactly on a frame gives two equal speeds, before and after it: a plateau, whose middle counts.
    _, plateaus = find_peaks(-smooth, plateau_size=1)
    # Speed i lies between frames i and i + 1.
    return ((plateaus["left_edges"] + plateaus["right_edges"]) / 2 + 0.5) / fps


def beat_alignment(movement: np.ndarray, music: np.ndarray) -> float:
    """Bailando's score: mean over music beats of exp(-d^2 / (2 * 50 ms^2)), d to the nearest motion beat; in [0,1].

    movement [n], music [m]: times in seconds. Without any motion beat the score is 0.
    """
    if len(movement) == 0 or len(music) == 0:
        return 0.0
    apart = np.abs(music[:, None] - movement[None]).min(1)
    return float(np.exp(-(apart**2) / (2 * SIGMA**2)).mean())


def beat_alignment_motion(movement: np.ndarray, music: np.ndarray) -> float:
    """FACT's score, also called beat alignment: mean over motion beats, d to the nearest music beat; in [0,1].

    movement, music: times in seconds, [n] and [m]. Bailando's rewards many motion beats, this one few: name which is meant.
    """
    return beat_alignment(music, movement)


def beat_alignment_corrected(movement: np.ndarray, music: np.ndarray) -> float:
    """Beat alignment above chance: 0 for movement that ignores the music, 1 for a perfect fit.

    Chance is the mean score of the same movement against the music shifted by 16 phases inside one beat period; a dance that
    merely moves often has a high chance level too. movement [n], music [m], m >= 2: times in seconds.
    """
    period = float(np.median(np.diff(music)))
    shifted = [beat_alignment(movement, music + period * i / SHIFTS) for i in range(SHIFTS)]
    chance = float(np.mean(shifted))
    return (beat_alignment(movement, music) - chance) / (1 - chance)
