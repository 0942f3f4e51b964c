"""Steadiness: a known movement has no warp error, a still is perfect, more noise is worse."""

import numpy as np
import pytest

from champ_jax.metrics import temporal
from tests.metrics.real import recorded


def moving(step=(3, 2), count=4, size=96):
    """Frames u8 [F,H,W,3] cut from a real one along a path, the flow [F-1,H,W,2] between them."""
    whole = recorded()["frames"][0]
    frames = np.stack([whole[40 + i * step[1] : 40 + size + i * step[1], 40 + i * step[0] : 40 + size + i * step[0]] for i in range(count)])
    flow = np.broadcast_to(np.array([-step[0], -step[1]], np.float32), (count - 1, size, size, 2))
    return frames, flow, np.ones((count - 1, size, size), bool)


def test_a_known_translation_has_no_warp_error():
    frames, flow, seen = moving()
    np.testing.assert_allclose(temporal.warp_error(frames, flow, seen), 0, atol=1e-12)
    assert (temporal.warp_error(frames, np.zeros_like(flow), seen) > 1e-3).all()


def test_warping_is_bilinear_and_black_beyond_the_edge():
    image = np.arange(20, dtype=np.float32).reshape(4, 5, 1)
    half = temporal.warp(image, np.full((4, 5, 2), (0.5, 0), np.float32))[..., 0]
    np.testing.assert_allclose(half[:, :4], image[:, :4, 0] + 0.5)
    np.testing.assert_allclose(half[:, 4], image[:, 4, 0] / 2)
    for far in ((-5.3, 0), (0, 4.2), (100, -100)):
        assert not temporal.warp(image, np.full((4, 5, 2), far, np.float32)).any()


def test_the_estimated_flow_is_the_true_one_inside():
    frames, flow, _ = moving()
    there, back = temporal.estimate_flow(frames[0], frames[1]), temporal.estimate_flow(frames[1], frames[0])
    assert np.median(np.abs(there - flow[0])[16:-16, 16:-16]) < 0.1
    seen = temporal.visible(there, back)
    assert seen[16:-16, 16:-16].mean() > 0.9 and not seen[:, :2].any()


def test_a_still_is_perfect_and_a_jump_is_not():
    still = np.repeat(recorded()["frames"][:1, :64, :64], 4, 0)
    assert (temporal.flicker(still) == 1).all() and (temporal.smoothness(still) > 0.9999).all()
    black_and_white = np.stack([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)])
    assert temporal.flicker(black_and_white)[0] == 0
    # VBench's own form, on whole levels.
    frames = recorded()["frames"]
    expected = [(255 - np.abs(a.astype(int) - b.astype(int)).mean()) / 255 for a, b in zip(frames[:-1], frames[1:])]
    np.testing.assert_allclose(temporal.flicker(frames), expected, atol=1e-6)


def test_difference_of_differences_sees_change_and_not_place():
    frames, *_ = moving()
    brighter = frames // 2 + 30
    same_change = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 30)])
    assert (temporal.dtssd(same_change, same_change + 50) < 1e-4).all()
    assert (temporal.dtssd(frames, frames) == 0).all() and (temporal.dtssd(frames, brighter) > 0.1).all()


@pytest.mark.parametrize("metric", ["warp_error", "flicker", "smoothness", "dtssd"])
def test_more_noise_is_worse(metric):
    frames, flow, seen = moving()
    noise = np.random.default_rng(0).normal(size=frames.shape)
    values = []
    for strength in (0, 4, 8, 16, 32):
        noisy = np.clip(frames + strength * noise, 0, 255).astype(np.uint8)
        found = {
            "warp_error": lambda v: temporal.warp_error(v, flow, seen),
            "flicker": lambda v: -temporal.flicker(v),
            "smoothness": lambda v: -temporal.smoothness(v),
            "dtssd": lambda v: temporal.dtssd(frames, v),
        }[metric](noisy)
        values.append(found.mean())
    assert values == sorted(values) and values[-1] > values[0]


def test_consistency_of_features():
    features = np.array([[1.0, 0], [2, 0], [0, 1], [-1, 0]])
    np.testing.assert_allclose(temporal.adjacent_consistency(features), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(temporal.subject_consistency(features, features[0]), [1, 0, 0], atol=1e-12)
