"""The body: shapes, skinning and keypoints on it."""

import numpy as np
import pytest

from champ_jax.data.dancers.body import AXES, FACE_AXES, forward_kinematics, load_body, shape_body, skin, standard_shape
from champ_jax.data.dancers.landmarks import pose_keypoints, rest_keypoints
from champ_jax.pose.skeleton import MIRROR


def shape_of(**changes):
    phenotype = {axis: 0.5 for axis in AXES} | changes
    return shape_body(load_body(), phenotype, np.full(3, 1 / 3), np.zeros(len(FACE_AXES)))


def test_weights_are_a_partition_and_parents_come_first():
    body = load_body()
    np.testing.assert_allclose(body.weights.sum(1), 1, atol=1e-5)
    assert (body.parents[1:] < np.arange(1, len(body.bones))).all() and body.parents[0] == -1
    assert len(body.template) == 19158 and body.layers["body"].max() < 13380


def test_phenotypes_do_what_they_say():
    tall, short = (np.ptp(shape_of(height=h).vertices[:13380, 1]) for h in (0.9, 0.1))
    assert 1.3 < short < tall < 2.4 and tall - short > 0.2
    x, y = standard_shape().vertices[:13380, :2].T
    waist = np.flatnonzero((np.abs(y - 0.3) < 0.02) & (np.abs(x) < 0.25))
    heavy, light = (np.ptp(shape_of(weight=w).vertices[waist, 2]) for w in (1.0, 0.0))
    assert heavy > light + 0.02


def test_rest_rotations_leave_the_body_at_rest():
    body, shape = load_body(), standard_shape()
    rotations = np.tile(np.eye(3, dtype=np.float32), (1, len(body.bones), 1, 1))
    heads = forward_kinematics(shape, body.parents, rotations, shape.heads[None, 0])
    np.testing.assert_allclose(heads[0], shape.heads, atol=1e-5)
    out = np.empty_like(shape.vertices)
    skin(shape.vertices, shape.heads, body.weight_bones, body.weights, rotations[0], heads[0], out)
    np.testing.assert_allclose(out, shape.vertices, atol=1e-5)


def test_skinning_moves_rigidly_with_a_single_rotation():
    body, shape = load_body(), standard_shape()
    turn = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], np.float32)
    rotations = np.tile(turn, (1, len(body.bones), 1, 1))
    heads = forward_kinematics(shape, body.parents, rotations, (turn @ shape.heads[0])[None])
    out = np.empty_like(shape.vertices)
    skin(shape.vertices, shape.heads, body.weight_bones, body.weights, rotations[0], heads[0], out)
    np.testing.assert_allclose(out, shape.vertices @ turn.T, atol=1e-5)


def test_keypoints_are_mirror_images_of_each_other():
    """The standard body is symmetric, so joint j mirrored is joint MIRROR[j]."""
    points, _ = rest_keypoints(standard_shape())
    np.testing.assert_allclose(points[MIRROR] * (-1, 1, 1), points, atol=0.006)


def test_keypoints_follow_the_pose():
    body, shape = load_body(), standard_shape()
    points, bones = rest_keypoints(shape)
    rotations = np.tile(np.eye(3, dtype=np.float32), (1, len(body.bones), 1, 1))
    posed = pose_keypoints(points, bones, shape.heads, rotations, shape.heads[None])[0]
    others = np.arange(len(points)) != 1  # the neck is the middle of the shoulders
    np.testing.assert_allclose(posed[others], points[others], atol=1e-5)
    np.testing.assert_allclose(posed[1], posed[[2, 5]].mean(0), atol=1e-6)


@pytest.mark.parametrize("name, low, high", [("nose", 0, 0.9), ("left_eye", 15, 0.93)])
def test_the_face_is_where_a_face_is(name, low, high):
    points, _ = rest_keypoints(standard_shape())
    assert 0.78 < points[low, 1] < high and points[low, 2] > 0.1
