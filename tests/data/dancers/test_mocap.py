"""Motion capture: readers, retargeting, loops and time warps."""

import numpy as np
import pytest

from champ_jax.data.dancers.body import load_body
from champ_jax.data.dancers.mocap import MOTIONS, load_motion, read_bvh, read_deepmimic, slerp, to_matrix, to_quaternion
from champ_jax.errors import UserError


def bone(name):
    return load_body().bone(name)


@pytest.mark.parametrize("name", MOTIONS)
def test_every_motion_loops_stays_put_and_stands_on_the_floor(name):
    motion = load_motion(name, 24.0)
    positions = motion.positions()
    assert len(motion) > 20 and np.isfinite(positions).all()
    np.testing.assert_allclose(np.linalg.norm(motion.rotations, axis=-1), 1, atol=1e-4)
    assert np.abs(motion.root[:, [0, 2]]).max() < 0.2
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=-1).max(1)
    seam = np.linalg.norm(positions[0] - positions[-1], axis=-1).max()
    assert seam < 1.6 * steps.max()
    assert -0.15 < positions[..., 1].min() < 0.25


def test_people_walk_forwards_with_opposite_arms_and_legs():
    positions = load_motion("walk", 24.0).positions()
    arm = positions[:, bone("hand_l"), 2] - positions[:, bone("pelvis"), 2]
    leg = positions[:, bone("foot_l"), 2] - positions[:, bone("foot_r"), 2]
    assert np.corrcoef(arm, leg)[0, 1] < -0.5
    knee = positions[:, bone("calf_l")] - (positions[:, bone("thigh_l")] + positions[:, bone("foot_l")]) / 2
    assert knee[:, 2].min() > -0.02  # knees bend forwards
    assert positions[0, bone("head"), 1] > positions[0, bone("pelvis"), 1] > positions[0, bone("foot_l"), 1]


def test_arms_go_up_when_reaching():
    positions = load_motion("reach", 24.0).positions()
    assert (positions[:, bone("hand_l"), 1] > positions[:, bone("head"), 1]).mean() > 0.2


def test_resample_is_exact_at_frames_and_wraps():
    motion = load_motion("dance_a", 24.0)
    times = np.arange(len(motion)) / motion.fps
    same, later = motion.resample(times), motion.resample(times + motion.duration)
    np.testing.assert_allclose(np.abs((same.rotations * motion.rotations).sum(-1)), 1, atol=1e-5)
    np.testing.assert_allclose(later.root, same.root, atol=1e-5)
    assert len(motion.resample([0.1, 0.2])) == 2 and not same.looping


def test_fingers_move():
    motion = load_motion("dance_b", 24.0)
    assert motion.rotations[:, bone("index_02_l")].std(0).max() > 0.05


def test_quaternions_and_matrices_agree():
    rng = np.random.default_rng(0)
    q = rng.normal(size=(5, 3, 4))
    q /= np.linalg.norm(q, axis=-1, keepdims=True)
    np.testing.assert_allclose(np.abs((to_quaternion(to_matrix(q)) * q).sum(-1)), 1, atol=1e-5)
    a, b = np.array([1.0, 0, 0, 0]), np.array([0.0, 1, 0, 0])
    np.testing.assert_allclose(slerp(a, b, 0.5), [0.5**0.5, 0.5**0.5, 0, 0], atol=1e-6)


def test_wrong_files_are_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="expected one of"):
        load_motion("polka")
    broken = tmp_path / "broken.txt"
    broken.write_text('{"Frames": [[1, 2], [3, 4]]}')
    with pytest.raises(UserError, match="44 numbers"):
        read_deepmimic(broken)
    bvh = tmp_path / "other.bvh"
    bvh.write_text("HIERARCHY\nROOT Body\n{\nOFFSET 0 0 0\n}\nMOTION\nFrames: 0\n")
    with pytest.raises(UserError, match="Hips"):
        read_bvh(bvh)


def test_a_person_who_turns_does_the_same_from_another_side():
    motion = load_motion("dance_b").slice(0, 24)
    degrees = np.linspace(0, 180, len(motion))
    turned, positions = motion.turned(degrees).positions(), motion.positions()
    np.testing.assert_allclose(turned[0], positions[0], atol=1e-6)
    half = positions[-1] * [-1, 1, -1]
    np.testing.assert_allclose(turned[-1], half, atol=1e-5)
    left = motion.turned(np.full(len(motion), 90.0)).positions()[0] - positions[0, bone("pelvis")]
    # Who faced the camera (+z) and turns to the left faces +x: toes are in front of the ankles there.
    assert left[bone("ball_l"), 0] > left[bone("foot_l"), 0]
    assert not motion.turned(degrees).looping
