"""What kind of dance a motion is, as a vector: kinetic and geometric features, whose distributions FID_k, FID_g and diversity compare.

Kinetic features (Onuma et al. 2008) are energies of each joint; geometric ones (Mueller et al. 2005) say how often a relation of joints
holds. Published tables compute them by fairmotion's code of SMPL joints, with a misplaced parenthesis in the acceleration and fixed
frame times: `compat=True` does exactly that. In two dimensions both have an analogue here, of poses in torso units.
"""

import numpy as np

from champ_jax.metrics.motion import torso_length
from champ_jax.pose.skeleton import THRESHOLD

BODY_AND_FEET = 24
UP = 1  # the axis
REACH = 2
"""Frames on either side over which velocities are averaged."""
COMPAT_FPS, COMPAT_GEOMETRIC_FPS = 60.0, 120.0
# Of fairmotion's neutral body, metres: upper arm, shoulder width, hip width.
ARM, SHOULDERS, HIPS = 0.2568381092, 0.3908483585, 0.1192470659
NAMES = ("root", "lhip", "rhip", "belly", "lknee", "rknee", "spine", "lankle", "rankle", "chest", "ltoes", "rtoes", "neck",
         "linshoulder", "rinshoulder", "head", "lshoulder", "rshoulder", "lelbow", "relbow", "lwrist", "rwrist", "lhand",
         "rhand")  # fmt: skip
"""SMPL's joints as the geometric features call them."""


def kinetic_features(positions: np.ndarray, fps: float, compat: bool = False) -> np.ndarray:
    """f64 [3*J] of joints [F,J,2 or 3], F >= 3: of each, mean squared speed along the floor and upwards, mean size of acceleration.

    compat: as published. The frame rate counts as 60 whatever it is, and the acceleration takes one of its two positions for a
    velocity, so that it depends on where the dancer stands.
    """
    positions = np.asarray(positions, np.float64)
    fps = COMPAT_FPS if compat else fps
    count = len(positions)
    step = np.diff(positions, axis=0)
    place = np.arange(1, count)
    velocity = _window_means(step, place - REACH - 1, place + REACH) * fps
    level = [axis for axis in range(positions.shape[-1]) if axis != UP]
    along = (velocity[..., level] ** 2).sum(-1).mean(0)
    upward = (velocity[..., UP] ** 2).mean(0)
    if compat:
        before = positions[1:-1] - positions[:-2] * fps
    else:
        before = step[:-1] * fps
    acceleration = _window_means((step[1:] * fps - before) * fps, place - REACH - 1, np.minimum(place + REACH, count - 2))
    return np.stack([along, upward, np.linalg.norm(acceleration, axis=-1).mean(0)], 1).reshape(-1)


def kinetic_features_2d(keypoints: np.ndarray, confidence: np.ndarray, fps: float) -> np.ndarray:
    """f64 [72]: kinetic features of body and feet, relative to the hips, of a pose track [F,J,2] px with confidence [F,J].

    In torso units a second. The neck, a torso's length from the hips, is replaced by the hips' own way through the frame. Joints
    that are hidden keep the place where they were last seen.
    """
    points = _held(keypoints[:, :BODY_AND_FEET], confidence[:, :BODY_AND_FEET]) / torso_length(keypoints, confidence)
    root = (points[:, 8] + points[:, 11]) / 2
    relative = points - root[:, None]
    relative[:, 1] = root - root[0]
    return kinetic_features(relative, fps)


def _window_means(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Means of values [N,...] over low <= i < high, cut to what there is; 0 where that is nothing."""
    total = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, 0)])
    low, high = low.clip(0, len(values)), high.clip(0, len(values))
    count = np.maximum(high - low, 1).reshape(-1, *[1] * (values.ndim - 1))
    return (total[high] - total[low]) / count


def _held(keypoints: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """f64 keypoints [F,J,2] where each hidden joint is at the place where it was last seen, or will first be."""
    points = keypoints.astype(np.float64)
    for joint in range(points.shape[1]):
        seen = np.flatnonzero(confidence[:, joint] >= THRESHOLD)
        if len(seen):
            last = np.searchsorted(seen, np.arange(len(points)), side="right") - 1
            points[:, joint] = points[seen[last.clip(0)], joint]
    return points


def geometric_features(positions: np.ndarray, fps: float, compat: bool = False) -> np.ndarray:
    """f64 [32] in [0,1]: in which share of the frames each of 32 relations holds, of SMPL joints [F,24,3] in metres, y up.

    compat: as published, velocities with a frame time of 1/120 s whatever it is.
    """
    joints = np.asarray(positions, np.float64)
    now = {name: joints[1:, number] for number, name in enumerate(NAMES)}
    before = {name: joints[:-1, number] for number, name in enumerate(NAMES)}
    fps = COMPAT_GEOMETRIC_FPS if compat else fps
    upward, floor = np.array([0.0, 1.0, 0.0]), joints[1:, :, 1].min(1)

    def step(name: str, base: str) -> np.ndarray:
        return ((now[name] - now[base]) - (before[name] - before[base])) * fps

    def moves(base: str, towards: str, name: str, limit: float) -> np.ndarray:
        return _along(step(name, base), now[towards] - now[base]) > limit

    def leaves_plane(first: str, second: str, third: str, name: str, limit: float) -> np.ndarray:
        return _along(step(name, first), np.cross(now[third] - now[first], now[second] - now[first])) > limit

    def beyond(start: str, end: str, base: str, name: str, limit: float) -> np.ndarray:
        return _along(now[name] - now[base], now[end] - now[start]) > limit

    def before_plane(first: str, second: str, third: str, name: str, limit: float) -> np.ndarray:
        normal = np.cross(now[third] - now[first], now[second] - now[first])
        return _along(now[name] - now[first], normal) > limit

    def bent(one: str, to: str, other: str, to_other: str, low: float, high: float) -> np.ndarray:
        angle = _angle(now[to] - now[one], now[to_other] - now[other])
        return (angle > low) & (angle < high)

    def fast(name: str, limit: float) -> np.ndarray:
        return np.linalg.norm(now[name] - before[name], axis=-1) * fps > limit

    spine = _angle(now["root"] - now["neck"], np.broadcast_to(upward, now["root"].shape))
    relations = [
        leaves_plane("neck", "rhip", "lhip", "rwrist", 1.8 * ARM),
        leaves_plane("neck", "lhip", "rhip", "lwrist", 1.8 * ARM),
        beyond("chest", "neck", "neck", "rwrist", 0.2 * ARM),
        beyond("chest", "neck", "neck", "lwrist", 0.2 * ARM),
        # Published for the wrists, but the code takes the velocity of its third joint, the chest, in both.
        moves("belly", "chest", "chest", 1.8 * ARM),
        moves("belly", "chest", "chest", 1.8 * ARM),
        bent("relbow", "rshoulder", "relbow", "rwrist", 0, 110),
        bent("lelbow", "lshoulder", "lelbow", "lwrist", 0, 110),
        beyond("lshoulder", "rshoulder", "lwrist", "rwrist", 2.5 * SHOULDERS),
        moves("lwrist", "rwrist", "rwrist", 1.4 * ARM),
        moves("rwrist", "root", "lwrist", 1.4 * ARM),
        moves("lwrist", "root", "rwrist", 1.4 * ARM),
        fast("rwrist", 2.5 * ARM),
        fast("lwrist", 2.5 * ARM),
        before_plane("root", "lhip", "ltoes", "rankle", 0.38 * ARM),
        before_plane("root", "rhip", "rtoes", "lankle", 0.38 * ARM),
        now["rankle"][:, 1] - floor > 1.2 * ARM,
        now["lankle"][:, 1] - floor > 1.2 * ARM,
        beyond("lhip", "rhip", "lankle", "rankle", 2.1 * HIPS),
        bent("rknee", "rhip", "rknee", "rankle", 0, 110),
        bent("lknee", "lhip", "lknee", "lankle", 0, 110),
        fast("rankle", 2.5 * ARM),
        fast("lankle", 2.5 * ARM),
        bent("neck", "root", "rshoulder", "relbow", 25, 180),
        bent("neck", "root", "lshoulder", "lelbow", 25, 180),
        bent("neck", "root", "rhip", "rknee", 50, 180),
        bent("neck", "root", "lhip", "lknee", 50, 180),
        before_plane("rankle", "neck", "lankle", "root", 0.5 * ARM),
        (spine > 70) & (spine < 110),
        now["rwrist"][:, 1] - floor < 1.2 * ARM,
        now["lwrist"][:, 1] - floor < 1.2 * ARM,
        fast("root", 2.3 * ARM),
    ]
    return np.stack(relations, 1).mean(0)


def geometric_features_2d(keypoints: np.ndarray, confidence: np.ndarray, fps: float) -> np.ndarray:
    """f64 [24] in [0,1]: in which share of the frames each relation in the plane holds, of a pose track [F,J,2] px, confidence [F,J].

    Eleven angles, six speeds in real seconds, seven distances. Lengths are 95th percentiles over the clip: what points at the camera
    is shortened. Relations of planes are left out, since they need depth.
    """
    p = np.moveaxis(_held(keypoints[:, :BODY_AND_FEET], confidence[:, :BODY_AND_FEET]), 1, 0)  # [J,F,2]
    arm = max(_length(p[3] - p[2]), _length(p[6] - p[5]), 1e-6)
    shoulders, hips = max(_length(p[5] - p[2]), 1e-6), max(_length(p[11] - p[8]), 1e-6)
    shin = max(_length(p[10] - p[9]), _length(p[13] - p[12]), 1e-6)
    root, spine, level = (p[8] + p[11]) / 2, (p[8] + p[11]) / 2 - p[1], np.array([1.0, 0.0])
    floor = np.maximum(p[10, :, 1], p[13, :, 1])

    def tilted(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        angle = _angle(other - one, np.broadcast_to(level, one.shape))
        return np.minimum(angle, 180 - angle) > 20

    def fast(track: np.ndarray, lengths: float) -> np.ndarray:
        speed = np.linalg.norm(np.diff(track, axis=0), axis=-1) * fps
        return np.concatenate([speed[:1], speed]) > lengths * arm

    angles = [
        _angle(p[2] - p[3], p[4] - p[3]) < 110, _angle(p[5] - p[6], p[7] - p[6]) < 110,  # elbows
        _angle(p[8] - p[9], p[10] - p[9]) < 110, _angle(p[11] - p[12], p[13] - p[12]) < 110,  # knees
        _angle(p[3] - p[2], spine) > 25, _angle(p[6] - p[5], spine) > 25,  # upper arms
        _angle(p[9] - p[8], spine) > 50, _angle(p[12] - p[11], spine) > 50,  # thighs
        _angle(spine, np.broadcast_to([0.0, 1.0], spine.shape)) > 20, tilted(p[8], p[11]), tilted(p[2], p[5]),
    ]  # fmt: skip
    speeds = [fast(p[4], 2.5), fast(p[7], 2.5), fast(p[10], 2.5), fast(p[13], 2.5), fast(root, 2.3), fast(p[0], 2.3)]
    distances = [
        p[4, :, 1] < p[1, :, 1], p[7, :, 1] < p[1, :, 1],  # wrists above the neck
        np.linalg.norm(p[4] - p[7], axis=-1) > 2.5 * shoulders,
        (p[4, :, 0] - p[7, :, 0]) * (p[2, :, 0] - p[5, :, 0]) < 0,  # wrists crossed
        np.linalg.norm(p[10] - p[13], axis=-1) > 2.1 * hips,
        floor - p[10, :, 1] > 0.6 * shin, floor - p[13, :, 1] > 0.6 * shin,  # an ankle lifted
    ]  # fmt: skip
    return np.stack(angles + speeds + distances, 1).mean(0)


def standardised(features: np.ndarray, real: np.ndarray, compat: bool = False) -> np.ndarray:
    """Features [N,D] by the mean and deviation of the real ones [M,D], as every published protocol does before it compares: [N,D].

    compat: as published, where a feature that the real ones never vary counts 1e10 times as much as its difference. Else no deviation
    is taken for less than a twentieth of the features' median one.
    """
    deviation = real.std(0)
    floor = 0.0 if compat or not deviation.any() else 0.05 * float(np.median(deviation[deviation > 0]))
    return (features - real.mean(0)) / (np.maximum(deviation, floor) + 1e-10)


def diversity(features: np.ndarray) -> float:
    """Mean distance of any two of features [N,D], N >= 2: a scalar; nan for fewer. To be near the real one's, not large."""
    if len(features) < 2:
        return float("nan")
    apart = np.linalg.norm(features[:, None] - features[None], axis=-1)
    return float(apart.sum() / (len(features) * (len(features) - 1)))


def _along(vectors: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """[F]: lengths of vectors [F,D] along directions [F,D]; nan where there is no direction, so that no relation holds."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (vectors * direction).sum(-1) / np.linalg.norm(direction, axis=-1)


def _angle(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[F] degrees between vectors [F,D] and [F,D]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (one * other).sum(-1) / (np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1))
    return np.degrees(np.arccos(cosine))


def _length(vectors: np.ndarray) -> float:
    return float(np.percentile(np.linalg.norm(vectors, axis=-1), 95))
