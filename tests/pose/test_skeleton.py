"""The layout of the 134 keypoints."""

import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.pose import skeleton as sk
from tests.pose.person import person


def test_parts_cover_every_joint_once():
    covered = np.concatenate([np.arange(sk.J)[part] for part in sk.PARTS.values()])
    assert sorted(covered) == list(range(134))


def test_mirror_swaps_named_sides_and_keeps_the_middle():
    names = sk.BODY_NAMES + sk.FEET_NAMES
    for joint, name in enumerate(names):
        other = {"left": name.replace("left", "right"), "righ": name.replace("right", "left")}.get(name[:4], name)
        assert names[sk.MIRROR[joint]] == other


def test_mirror_of_face_and_hands():
    face = sk.FACE.start
    pairs = {0: 16, 8: 8, 17: 26, 27: 27, 31: 35, 36: 45, 39: 42, 40: 47, 48: 54, 51: 51, 60: 64, 67: 65}
    assert all(sk.MIRROR[face + a] == face + b for a, b in pairs.items())
    np.testing.assert_array_equal(sk.MIRROR[sk.LEFT_HAND], np.arange(134)[sk.RIGHT_HAND])


def test_mirroring_twice_is_the_identity():
    keypoints, confidence = person()
    confidence = np.linspace(0, 1, sk.J, dtype=np.float32)
    once = sk.mirror(keypoints, confidence, 96.0)
    twice = sk.mirror(*once, 96.0)
    np.testing.assert_allclose(twice[0], keypoints, atol=1e-5)
    np.testing.assert_array_equal(twice[1], confidence)
    assert once[0][sk.LEFT_WRIST, 0] == 96 - keypoints[sk.RIGHT_WRIST, 0]


def test_tree_reaches_every_body_joint_after_its_parent():
    assert sorted(sk.TREE_ORDER) == list(range(24))
    for place, joint in enumerate(sk.TREE_ORDER):
        assert sk.PARENTS[joint] == sk.ROOT or sk.PARENTS[joint] in sk.TREE_ORDER[:place]


def test_hands_have_four_bones_a_finger():
    np.testing.assert_array_equal(sk.HAND_LIMBS[:6], [(0, 1), (1, 2), (2, 3), (3, 4), (0, 5), (5, 6)])
    assert sk.HAND_LIMBS.shape == (20, 2) and sk.HAND_LIMBS[-1].tolist() == [19, 20]


def test_lines_scale_with_the_map_and_stay_visible():
    assert sk.strokes((512, 512)) == sk.Strokes(4, 4, 1, 4, 3)
    assert sk.strokes((1024, 2048)).limb == 8
    assert min(sk.strokes((64, 64))) >= 0.5


@pytest.mark.parametrize("xp", [np, jnp])
def test_bones_hang_on_their_parents(xp):
    keypoints, confidence = person()
    bones = np.asarray(sk.bones(xp.asarray(keypoints), xp))
    np.testing.assert_allclose(bones[3], keypoints[3] - keypoints[2], rtol=1e-5)
    np.testing.assert_allclose(bones[1], keypoints[1] - keypoints[[8, 11]].mean(0), rtol=1e-5)
    confidence[9] = 0.1
    hidden = np.flatnonzero(np.asarray(sk.bone_confidence(xp.asarray(confidence), xp)) < 0.3)
    assert hidden.tolist() == [9, 10]
