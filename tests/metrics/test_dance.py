"""Features of dances: those of the published code loop by loop, and what the mended and the flat ones do not depend on."""

import numpy as np
import pytest

from champ_jax.infer.photo import standing_body
from champ_jax.metrics import dance


def smpl(frames=40, seed=0, still=False):
    """Joints [F,24,3] of somebody who wriggles, metres, y up."""
    rng = np.random.default_rng(seed)
    rest = rng.normal(0, 0.3, (24, 3)) + np.array([0.5, 1.0, -0.2])
    wriggle = np.cumsum(rng.normal(0, 0.02, (frames, 24, 3)), 0)
    return rest + (0 if still else 1) * wriggle


def loops(positions, dt=1 / 60, w=2):
    """Kinetic features as fairmotion computes them, one joint and frame at a time, with the published parenthesis."""
    count, joints, _ = positions.shape
    result = []
    for j in range(joints):
        flat = vertical = energy = 0.0
        for i in range(1, count):
            mean, n = np.zeros(3), 0
            for k in range(-w, w + 1):
                if i + k - 1 >= 0 and i + k < count:
                    mean += positions[i + k, j] - positions[i + k - 1, j]
                    n += 1
            mean /= n * dt
            flat += mean[0] ** 2 + mean[2] ** 2
            vertical += mean[1] ** 2
            total, n = np.zeros(3), 0
            for k in range(-w, w + 1):
                if i + k - 1 >= 0 and i + k + 1 < count:
                    after = (positions[i + k + 1, j] - positions[i + k, j]) / dt
                    before = positions[i + k, j] - positions[i + k - 1, j] / dt
                    total += (after - before) / dt
                    n += 1
            energy += np.linalg.norm(total / n) if n else 0.0
        result += [flat / (count - 1), vertical / (count - 1), energy / (count - 1)]
    return np.array(result)


def test_kinetic_features_are_the_published_ones():
    positions = smpl()
    np.testing.assert_allclose(dance.kinetic_features(positions, 30, compat=True), loops(positions), rtol=1e-9)


def test_mended_kinetic_features_do_not_see_the_place_and_scale_with_time():
    positions = smpl()
    moved = positions + np.array([3.0, -1.0, 2.0])
    np.testing.assert_allclose(dance.kinetic_features(moved, 30), dance.kinetic_features(positions, 30), rtol=1e-8)
    assert np.abs(dance.kinetic_features(moved, 30, compat=True) / dance.kinetic_features(positions, 30, compat=True) - 1).max() > 1
    ratio = dance.kinetic_features(positions, 60) / dance.kinetic_features(positions, 30)
    np.testing.assert_allclose(ratio, np.tile([4, 4, 4], 24))
    assert not dance.kinetic_features(smpl(still=True), 30).any()


def geometric_loop(positions, fps=120.0):
    """A few of the 32 relations, by the words of the published code."""
    names = dance.NAMES.index
    rows = []
    for t in range(1, len(positions)):
        now, old = positions[t], positions[t - 1]
        get = lambda name: now[names(name)]  # noqa: E731, B023
        cross = np.cross(get("lhip") - get("neck"), get("rhip") - get("neck"))
        step = (get("rwrist") - get("neck")) - (old[names("rwrist")] - old[names("neck")])
        moving = step @ cross / np.linalg.norm(cross) * fps > 1.8 * dance.ARM
        arm, fore = get("rshoulder") - get("relbow"), get("rwrist") - get("relbow")
        angle = np.degrees(np.arccos(arm @ fore / np.linalg.norm(arm) / np.linalg.norm(fore)))
        normal = np.cross(get("ltoes") - get("root"), get("lhip") - get("root"))
        front = (get("rankle") - get("root")) @ normal / np.linalg.norm(normal) > 0.38 * dance.ARM
        high = get("rankle")[1] - now[:, 1].min() > 1.2 * dance.ARM
        fast = np.linalg.norm(get("root") - old[names("root")]) * fps > 2.3 * dance.ARM
        rows.append([moving, 0 < angle < 110, front, high, fast])
    return np.mean(rows, 0)


def test_geometric_features_are_the_published_ones():
    positions = smpl(60, seed=3)
    found = dance.geometric_features(positions, 30, compat=True)
    assert found.shape == (32,) and ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found[[0, 6, 14, 16, 31]], geometric_loop(positions))
    np.testing.assert_array_equal(found, dance.geometric_features(positions, 120.0))


def track(fps, size=(96, 96), reach=0.3):
    keypoints, confidence = standing_body(size)
    time = np.arange(int(4 * fps)) / fps
    moved = np.repeat(keypoints[None].astype(np.float64), len(time), 0)
    moved[:, 4] += reach * size[0] * np.stack([np.sin(2 * np.pi * time), np.cos(2 * np.pi * time)], -1)
    return moved, np.repeat(confidence[None], len(time), 0)


def test_flat_features_depend_on_the_dance_and_not_on_size_or_rate():
    small, large, fast = (f(*track(fps, size), fps) for fps, size in ((30, (96, 96)), (30, (192, 192)), (60, (96, 96))) for f in (
        dance.kinetic_features_2d,
    ))  # fmt: skip
    assert small.shape == (72,)
    np.testing.assert_allclose(small, large, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(small[12:15], fast[12:15], rtol=0.15)
    still = dance.kinetic_features_2d(*track(30, reach=0), 30)
    assert not still.any() and small[12:14].min() > 0.1
    flat = dance.geometric_features_2d(*track(30), 30)
    assert flat.shape == (24,) and flat[11] > 0.9 and flat[12] == 0, "the right wrist is fast, the left is not"


def test_hidden_joints_keep_their_place():
    keypoints, confidence = track(30)
    confidence[10:20, 4] = 0
    keypoints[10:20, 4] = 1e6
    assert np.isfinite(dance.kinetic_features_2d(keypoints, confidence, 30)).all()
    assert dance.kinetic_features_2d(keypoints, confidence, 30).max() < 1e4


def test_diversity_and_standardising():
    assert dance.diversity(np.zeros((3, 4))) == 0 and np.isnan(dance.diversity(np.zeros((1, 4))))
    assert dance.diversity(np.array([[0.0], [1.0], [3.0]])) == pytest.approx(2)
    real = np.array([[0.0, 5.0], [2.0, 5.0]])
    np.testing.assert_allclose(dance.standardised(real, real)[:, 0], [-1, 1])
    # A feature that never varies among the real ones is no reason for a distance of 1e10.
    other = real + np.array([0, 0.1])
    assert np.abs(dance.standardised(other, real)).max() < 10 < np.abs(dance.standardised(other, real, compat=True)).max()
