"""How a person moves: energy, jerk, feet that slide, physics, frames that are frozen or leave the picture.

Poses are keypoints [F,J,2] in pixels, y down, with confidence [F,J]; what is in torso lengths does not depend on the size of frame and
person, and what is a second does not depend on the frame rate. Three-dimensional joints [F,24,3] are SMPL's, in metres.
"""

import numpy as np
from scipy.signal import butter, sosfiltfilt

from champ_jax.pose.normalise import anchor
from champ_jax.pose.skeleton import BODY, CONTACT_JOINTS, LEFT_HIP, RIGHT_HIP, THRESHOLD

FROZEN = 0.3
"""Of the real motion's energy; below, a dance counts as standing still whatever its beat score."""
SKATE_SPEED = 0.6
"""Torsos a second: a foot that moves slower counts as standing (1 cm a frame at 30 fps, as in EDGE)."""
FLOOR = 0.12
"""Torsos above its lowest point within which a foot is taken to be on the floor."""
HIGH_HZ = 8.0
"""Above it hardly anything of a dance moves."""
LEFT_FOOT, RIGHT_FOOT = (13, 18, 20), (10, 21, 23)
"""Ankle, big toe and heel of each side."""
SMPL_FEET, SMPL_ROOT = ((7, 10), (8, 11)), 0
"""SMPL's ankle and toe of each side, and its pelvis."""


def torso_length(keypoints: np.ndarray, confidence: np.ndarray) -> float:
    """Median length of the torso over a clip, pixels: keypoints [F,J,2], confidence [F,J]."""
    return float(np.median(np.asarray(anchor(keypoints, confidence).torso)))


def body_speed(keypoints: np.ndarray, confidence: np.ndarray, fps: float) -> np.ndarray:
    """Mean speed of the visible body joints in torso lengths a second: f32 [F-1].

    keypoints: [F,J,2] pixels, F >= 2. confidence: [F,J]; a step of a joint counts where both its ends are seen.
    A torso is the median length over the clip, so the size of the frame and of the person cancel out.
    """
    step = np.linalg.norm(np.diff(keypoints[:, BODY], axis=0), axis=-1)
    seen = np.minimum(confidence[1:, BODY], confidence[:-1, BODY]) >= THRESHOLD
    mean = (step * seen).sum(-1) / np.maximum(seen.sum(-1), 1)
    return (mean / torso_length(keypoints, confidence) * fps).astype(np.float32)


def joint_speed(positions: np.ndarray) -> np.ndarray:
    """f64 [F-1]: mean over joints of how far each of positions [F,J,2 or 3] moves in a frame."""
    return np.linalg.norm(np.diff(np.asarray(positions, np.float64), axis=0), axis=-1).mean(-1)


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
    third = np.linalg.norm(np.diff(keypoints[:, BODY], n=3, axis=0), axis=-1)
    seen = confidence[:, BODY] >= THRESHOLD
    seen = seen[3:] & seen[2:-1] & seen[1:-2] & seen[:-3]
    return float((third * seen).sum() / max(seen.sum(), 1) / torso_length(keypoints, confidence) * fps**3)


def high_frequency_share(keypoints: np.ndarray, confidence: np.ndarray, fps: float) -> float:
    """Share of the body's speed, squared, that lies above 8 Hz: a scalar in [0,1]; nan where the rate of frames has no such part.

    keypoints [F,J,2] pixels, confidence [F,J]. Joints that are hidden for a part of the clip do not count.
    """
    seen = (confidence[:, BODY] >= THRESHOLD).all(0)
    if fps <= 2 * HIGH_HZ or not seen.any() or len(keypoints) < 16:
        return float("nan")
    velocity = np.diff(keypoints[:, BODY][:, seen].astype(np.float64), axis=0)
    fast = sosfiltfilt(butter(4, HIGH_HZ, "highpass", fs=fps, output="sos"), velocity, axis=0, padlen=min(12, len(velocity) - 1))
    return float((fast**2).sum() / max((velocity**2).sum(), 1e-12))


def out_of_frame(keypoints: np.ndarray, confidence: np.ndarray, size: tuple[int, int]) -> float:
    """Share of the visible body joints [F,J,2], confidence [F,J], that lie outside a frame of `size` (H, W): a scalar in [0,1]."""
    points, seen = keypoints[:, BODY], confidence[:, BODY] >= THRESHOLD
    outside = ((points < 0) | (points > np.array([size[1], size[0]]))).any(-1)
    return float((outside & seen).sum() / max(seen.sum(), 1))


def foot_skate(keypoints: np.ndarray, confidence: np.ndarray, fps: float) -> float:
    """Share of the time on the floor during which a foot slides: a scalar in [0,1]; nan where no foot is seen on it. Still camera.

    keypoints [F,J,2] pixels, confidence [F,J]. Toes and heels are on the floor within 0.12 torsos of the lowest they get in that
    second, and slide at more than 0.6 torsos a second.
    """
    feet = list(CONTACT_JOINTS)
    torso = torso_length(keypoints, confidence)
    points, seen = keypoints[:, feet] / torso, confidence[:, feet] >= THRESHOLD
    speed = np.linalg.norm(np.diff(points, axis=0), axis=-1) * fps
    reach = max(1, round(fps / 2))
    height = np.where(seen, points[..., 1], -np.inf)
    lowest = np.stack([height[max(0, t - reach) : t + reach + 1].max(0) for t in range(len(points))])
    on_floor = seen & (points[..., 1] > lowest - FLOOR)
    standing = on_floor[1:] & on_floor[:-1]
    # A step lifts the foot within one of its frames; what slides stays as low as it was.
    level = np.abs(np.diff(points[..., 1], axis=0)) * fps < SKATE_SPEED
    counted = standing & level
    return float((counted & (speed > SKATE_SPEED)).sum() / counted.sum()) if counted.any() else float("nan")


def contact_2d(keypoints: np.ndarray, confidence: np.ndarray, fps: float) -> float:
    """EDGE's physical foot contact score for poses in the plane: a scalar, 0 where the body is only pushed by feet that stand.

    keypoints [F,J,2] pixels, confidence [F,J], F >= 3. Mean over time of the root's acceleration (its upward part not below 0) as a
    share of its largest, times the slowest point of the left foot, times that of the right, both in torsos a second. Still camera.
    """
    points = keypoints.astype(np.float64) / torso_length(keypoints, confidence)
    root = (points[:, RIGHT_HIP] + points[:, LEFT_HIP]) / 2
    acceleration = np.diff(root, n=2, axis=0) * fps**2
    acceleration[:, 1] = np.minimum(acceleration[:, 1], 0)  # y points down
    speeds = np.linalg.norm(np.diff(points, axis=0), axis=-1)[1:] * fps
    seen = confidence[2:] >= THRESHOLD
    left, right = (np.where(seen[:, list(foot)], speeds[:, list(foot)], np.inf).min(-1) for foot in (LEFT_FOOT, RIGHT_FOOT))
    return _contact(acceleration, left, right)


def contact(positions: np.ndarray, up: int = 2, compat: bool = False, fps: float = 30.0) -> float:
    """EDGE's physical foot contact score (PFC) of SMPL joints [F,24,3], F >= 3: a scalar, to be read in 1e-4.

    up: which coordinate points up. compat: as published, where feet move in metres a frame, so that the score falls with the square
    of the frame rate; else in metres a thirtieth of a second, which at 30 fps is the same.
    """
    positions = np.asarray(positions, np.float64)
    acceleration = np.diff(positions[:, SMPL_ROOT], n=2, axis=0)
    acceleration[:, up] = np.maximum(acceleration[:, up], 0)
    flat = [axis for axis in range(3) if axis != up]
    scale = 1.0 if compat else fps / 30.0
    speeds = np.linalg.norm(np.diff(positions[..., flat], axis=0), axis=-1)[1:] * scale
    left, right = (speeds[:, list(foot)].min(-1) for foot in SMPL_FEET)
    return 1e4 * _contact(acceleration, left, right)


def scores(keypoints: np.ndarray, confidence: np.ndarray, fps: float, size: tuple[int, int] | None) -> dict[str, float]:
    """{metric: scalar} of a pose track alone: keypoints [F,J,2] pixels, confidence [F,J], F >= 4, of frames of `size` (H, W) if known.

    nan for what needs feet in the picture, more frames, or the size.
    """
    track = (keypoints, confidence)
    return {
        "energy": motion_energy(*track, fps),
        "jerk": jerk(*track, fps),
        "high_frequency": high_frequency_share(*track, fps),
        "foot_skate": foot_skate(*track, fps),
        "pfc_2d": contact_2d(*track, fps),
        "out_of_frame": out_of_frame(*track, size) if size else float("nan"),
    }


def scores_3d(positions: np.ndarray, fps: float) -> dict[str, float]:
    """{metric: scalar} of SMPL joints [F,24,3] in metres, y up, F >= 3, alone."""
    return {"energy": float((joint_speed(positions) * fps).mean()), "pfc": contact(positions, up=1, fps=fps)}


def _contact(acceleration: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
    """Mean product of acceleration [F-2,D], over its largest, and both feet's speeds [F-2], where both are seen; nan if nowhere."""
    size = np.linalg.norm(acceleration, axis=-1)
    product = size / max(size.max(), 1e-12) * left * right
    finite = np.isfinite(product)
    return float(product[finite].mean()) if finite.any() else float("nan")
