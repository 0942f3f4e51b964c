"""How a movement is, by itself, to the music, and against the true one."""

from fractions import Fraction

import numpy as np

from champ_jax.data.pose_files import resample_pose
from champ_jax.evaluate.catalogue import DISCO
from champ_jax.evaluate.clips import Motion
from champ_jax.metrics import beats as beat_metrics
from champ_jax.metrics import dance, motion, pose

CURVE_SECONDS = 1.0
CURVE_POINTS = 81
"""Of the curve of scores over shifts of the music, one second either way."""
HIGHEST_ENERGY_RATE = 12
"""Points a second of the drawn curve of energy: what an eye can tell apart on a page."""
FEATURES = {"fid_k": "kinetic", "fid_g": "geometric", "fid_k_compat": "kinetic_compat", "fid_g_compat": "geometric_compat"}
"""Distances of sets of dances: the features that each compares."""
Values = dict[str, tuple[float, float]]


def dance_scores(own: Motion, real: Motion | None, music: np.ndarray | None) -> tuple[Values, dict]:
    """({metric: (of the generated motion, of the true one or nan)}, curves to draw).

    music: f64 [n] seconds of its beats. Whatever needs feet in the picture or more frames than there are is left out.
    """
    both = [_movement(side) if side is not None else {} for side in (own, real)]
    values = {name: (both[0][name], both[1].get(name, float("nan"))) for name in both[0]}
    if real is not None:
        ratio, frozen = motion.energy_ratio(both[0]["energy"], both[1]["energy"])
        values["energy_ratio"], values["frozen"] = (ratio, 1.0), (float(frozen), 0.0)
    curves: dict = {}
    if music is not None:
        heard = [_to_music(side, music) if side is not None else {} for side in (own, real)]
        values |= {name: (heard[0][name], heard[1].get(name, float("nan"))) for name in heard[0]}
        curves = _curves(own, music)
    return {name: pair for name, pair in values.items() if not np.isnan(pair[0])}, curves


def _speed(side: Motion) -> np.ndarray:
    """[T-1]: mean speed of the joints, torsos (or metres) a second."""
    if side.positions is None:
        return motion.body_speed(side.keypoints, side.confidence, side.fps)
    return motion.joint_speed(side.positions) * side.fps


def _movement(side: Motion) -> dict[str, float]:
    """Of the motion alone."""
    if side.positions is not None:
        return motion.scores_3d(side.positions, side.fps)
    return motion.scores(side.keypoints, side.confidence, side.fps, side.size)


def _heard(side: Motion, music: np.ndarray) -> np.ndarray:
    """The beats that fall into the motion."""
    return music[(music >= 0) & (music < (len(_speed(side)) + 1) / side.fps)]


def _to_music(side: Motion, music: np.ndarray) -> dict[str, float]:
    """Of the motion and the beats that fall into it."""
    heard = _heard(side, music)
    if len(heard) < 2:
        return {}
    joints = side.positions if side.positions is not None else side.keypoints[:, : dance.BODY_AND_FEET]
    return beat_metrics.scores(beat_metrics.motion_beats(_speed(side), side.fps), heard, joints, side.fps)


def _curves(side: Motion, music: np.ndarray) -> dict:
    """What is drawn: energy over time with beats of music and motion, and the score over shifts of the music."""
    speed, heard = _speed(side), _heard(side, music)
    stops = beat_metrics.motion_beats(speed, side.fps)
    every = max(1, int(side.fps / HIGHEST_ENERGY_RATE))
    shifts = np.linspace(-CURVE_SECONDS, CURVE_SECONDS, CURVE_POINTS)
    times = (np.arange(len(speed)) + 0.5) / side.fps
    return {
        "energy": [[round(float(t), 3), round(float(v), 4)] for t, v in zip(times[::every], speed[::every])],
        "music_beats": [round(float(t), 3) for t in heard],
        "motion_beats": [round(float(t), 3) for t in stops],
        "shift": [
            [round(float(shift), 3), round(float(score), 4)]
            for shift, score in zip(shifts, beat_metrics.shift_curve(stops, heard, (len(speed) + 1) / side.fps, shifts))
        ]
        if len(heard)
        else [],
    }


def dance_features(side: Motion, protocol: str) -> dict[str, np.ndarray]:
    """{kind: [D]} of a motion, as FEATURES names them; those of published tables for positions only, under "disco-compat"."""
    if side.positions is None:
        track = (side.keypoints, side.confidence, side.fps)
        return {"kinetic": dance.kinetic_features_2d(*track), "geometric": dance.geometric_features_2d(*track)}
    # Published: relative to where the pelvis is in the first frame.
    placed = side.positions - side.positions[:1, :1]
    found = {"kinetic": dance.kinetic_features(placed, side.fps), "geometric": dance.geometric_features(side.positions, side.fps)}
    if protocol == DISCO:
        found["kinetic_compat"] = dance.kinetic_features(placed, side.fps, compat=True)
        found["geometric_compat"] = dance.geometric_features(side.positions, side.fps, compat=True)
    return found


def pose_scores(own: Motion, driving: Motion) -> dict[str, float]:
    """{metric: value} of the generated pose track against the driving one, at the generated one's frames; none of positions."""
    if own.positions is not None or driving.positions is not None:
        return {}
    count = len(own.keypoints)
    rates = [Fraction(side.fps).limit_denominator(1001) for side in (driving, own)]
    truth, sure = resample_pose(driving.keypoints, driving.confidence, *rates, 0, count)
    if own.size and driving.size and own.size != driving.size:
        truth = truth * (np.array(own.size[::-1]) / np.array(driving.size[::-1])).astype(np.float32)
    values = pose.scores(own.keypoints, own.confidence, truth, sure)
    return {name: value for name, value in values.items() if not np.isnan(value)}
