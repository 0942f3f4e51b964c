"""Drawing on the host and on the device: legible, alike, and with gradients that point the right way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.pose import skeleton as sk
from champ_jax.pose.differentiable import pose_map
from champ_jax.pose.draw import draw, draw_clip
from tests.pose.person import dance, person

SIZE = (96, 96)


def only(*joints):
    confidence = np.zeros(sk.J, np.float32)
    confidence[list(joints)] = 1
    return confidence


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (180, 320), (512, 512)])
def test_every_limb_is_visible_in_its_colour(size):
    keypoints, _ = person(size)
    for limb, (a, b) in enumerate(sk.LIMBS[:13]):
        image = draw(keypoints, only(a, b), size)
        x, y = (keypoints[a] + keypoints[b]) / 2
        pixel = image[int(y), int(x)].astype(int)
        assert np.abs(pixel - 0.6 * sk.COLOURS[limb]).max() <= 60, (limb, pixel)


def test_parts_and_hidden_joints():
    keypoints, confidence = person()
    assert draw(keypoints, 0 * confidence, SIZE).max() == 0
    assert draw(keypoints, np.where(np.arange(sk.J) == 4, 0.29, 0), SIZE).max() == 0
    face = draw(keypoints, only(*range(24, 92)), SIZE)
    assert (face[..., 0] == face[..., 2]).all() and face.max() == 255
    hand = draw(keypoints, only(*range(92, 113)), SIZE)
    assert hand[..., 2].max() == 255
    assert draw(keypoints, only(*range(18, 24)), SIZE).max() == 0  # DWPose draws no feet


def test_points_outside_or_broken_are_survived():
    keypoints, confidence = person()
    keypoints[4], keypoints[7], keypoints[10] = (-1e9, 50), (np.nan, 3), (np.inf, 3)
    assert draw(keypoints, confidence, SIZE).any()


def test_pixel_centres():
    keypoints = np.full((sk.J, 2), 20.0, np.float32)
    image = draw(keypoints, only(0), (40, 40)).astype(float).sum(-1)
    rows, columns = np.indices((40, 40)) + 0.5
    centre = (columns * image).sum() / image.sum(), (rows * image).sum() / image.sum()
    np.testing.assert_allclose(centre, (20, 20), atol=0.1)
    device = np.asarray(pose_map(keypoints[None, None], only(0)[None, None], (40, 40)))[0, 0].sum(-1)
    np.testing.assert_allclose((columns * device).sum() / device.sum(), 20, atol=1e-3)


@pytest.mark.parametrize("size", [(96, 96), (128, 72), (256, 256)])
def test_device_and_host_draw_alike(size):
    keypoints, confidence = dance(3, size=size)
    confidence[1, [3, 7, 30, 100]] = 0.1
    host = draw_clip(keypoints, confidence, size) / 255
    device = np.asarray(pose_map(keypoints[None], confidence[None], size)[0])
    assert device.shape == host.shape and device.min() >= -1e-5 and device.max() <= 1 + 1e-5
    assert np.abs(host - device).mean() < 0.004
    ink = host.max(-1) > 0
    assert np.abs(host - device)[ink].mean() < 0.05


def test_batching_does_not_change_a_frame():
    keypoints, confidence = dance(20)
    together = pose_map(keypoints[None], confidence[None], (48, 48))
    alone = pose_map(keypoints[None, 17:18], confidence[None, 17:18], (48, 48))
    np.testing.assert_allclose(together[0, 17], alone[0, 0], atol=1e-5)


def test_gradient_moves_a_limb_to_where_it_should_be():
    target, confidence = person((48, 48))
    start = target.copy()
    start[sk.LEFT_WRIST] += (1.5, 2)
    sure = only(*range(18))[None, None]
    draw_soft = lambda points: pose_map(points[None, None], sure, (48, 48), softness=0.8)  # noqa: E731
    goal = draw_soft(target)
    gradient = jax.jit(jax.grad(lambda points: jnp.square(draw_soft(points) - goal).sum()))
    first = np.abs(np.asarray(gradient(start))).sum(-1)
    assert first[sk.LEFT_WRIST] > 3 * np.delete(first, [5, 6, 7]).max()
    points = start
    for _ in range(60):
        points = points - 0.1 * gradient(points)
    assert np.abs(points - target)[sk.LEFT_WRIST].max() < 0.3


def test_gradients_are_finite_everywhere():
    keypoints, confidence = person((32, 32))
    keypoints[3] = keypoints[2]  # a limb of no length

    def ink(points, sure):
        return pose_map(points[None, None], sure[None, None], (32, 32)).sum()

    for sure in (confidence, 0 * confidence, np.full_like(confidence, 0.3)):
        gradients = jax.jit(jax.grad(ink, argnums=(0, 1)))(keypoints, sure)
        assert all(np.isfinite(g).all() for g in gradients)
    assert np.asarray(gradients[1])[:18].sum() > 0  # surer joints show more


def test_vmap_and_half_precision():
    keypoints, confidence = dance(2)
    maps = jax.vmap(lambda k, c: pose_map(k[None], c[None], (32, 32))[0])(keypoints[:, None], confidence[:, None])
    assert maps.shape == (2, 1, 32, 32, 3)
    half = pose_map(jnp.asarray(keypoints, jnp.bfloat16)[None], jnp.asarray(confidence)[None], (32, 32))
    assert half.dtype == jnp.bfloat16
