"""How much later or earlier than the dance its music sounds: dancers stop and turn on accents, so both curves should rise together.

A measure for a whole set of clips: one clip says little, a mean over many that is not zero is a fault of the videos (spec: seconds are
the only clock). It is reported, never applied by itself.
"""

import numpy as np

from champ_jax.pose.skeleton import BODY, THRESHOLD

MOST_SECONDS = 0.5
CHANCE = 6.0
"""Music and motion that have nothing to do with each other are hardly ever surer than this of an offset (median 3, in 10 s clips)."""


def motion_accents(keypoints: np.ndarray, confidence: np.ndarray, fps: float) -> np.ndarray:
    """f32 [T]: how much of their motion the joints lose at each frame, where they stop or turn; pixels a second.

    keypoints [T,134,2] pixels, confidence [T,134].
    """
    if len(keypoints) < 3:
        return np.zeros(len(keypoints), np.float32)
    points = np.where((confidence[:, BODY] >= THRESHOLD)[..., None], keypoints[:, BODY], np.nan)
    velocity = np.diff(points, axis=0) * fps
    before = np.linalg.norm(velocity[:-1], axis=-1)
    kept = (velocity[1:] * velocity[:-1]).sum(-1) / np.maximum(before, 1e-3)
    lost = np.maximum(before - kept, 0)
    seen = np.isfinite(lost)
    # What changes between three frames belongs to the one in the middle.
    return np.pad(np.where(seen, lost, 0).sum(1) / np.maximum(seen.sum(1), 1), 1).astype(np.float32)


def measure_offset(onsets: np.ndarray, accents: np.ndarray, fps: float) -> tuple[float, float]:
    """(seconds by which the music comes later than the motion, how sure that is: the peak over the spread of all other lags, see CHANCE).

    Args:
      onsets, accents: f32 [T], a value a frame; see audio.beats.onset_envelope and `motion_accents`.

    Returns: (0, 0) where one of them has no accents at all. Between frames a parabola through the peak decides.
    """
    count = min(len(onsets), len(accents))
    one, other = (values[:count] - values[:count].mean() if count else values for values in (onsets, accents))
    most = min(round(MOST_SECONDS * fps), count // 3)
    if most < 2 or one.std() == 0 or other.std() == 0:
        return 0.0, 0.0
    lags = np.arange(-most, most + 1)
    scores = np.array([_overlap(one, other, lag) for lag in lags]) / (one.std() * other.std())
    best = int(scores.argmax())
    rest = scores[np.abs(np.arange(len(scores)) - best) > 2]
    sure = float((scores[best] - rest.mean()) / max(rest.std(), 1e-6))
    shift = 0.0
    if 0 < best < len(lags) - 1:
        before, peak, after = scores[best - 1 : best + 2]
        shift = 0.5 * (before - after) / min(before - 2 * peak + after, -1e-9)
    return float((lags[best] + shift) / fps), sure


def _overlap(sound: np.ndarray, motion: np.ndarray, lag: int) -> float:
    """Mean product of the motion and of the sound `lag` frames later."""
    shifted = sound[lag:] if lag >= 0 else sound[:lag]
    moved = motion[: len(motion) - lag] if lag >= 0 else motion[-lag:]
    return float((shifted * moved).mean())
