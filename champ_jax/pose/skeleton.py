"""The 134-keypoint DWPose skeleton: order, parts, limbs, colours, mirror table, kinematic tree and line widths.

The order is DWPose's: the 133 points of COCO-WholeBody and a neck (the mean of both shoulders), with the body re-ordered to
OpenPose's. Left and right are the person's own.
"""

import colorsys
from typing import NamedTuple

import numpy as np

J = 134
BODY, FEET, FACE = slice(0, 18), slice(18, 24), slice(24, 92)
LEFT_HAND, RIGHT_HAND = slice(92, 113), slice(113, 134)
PARTS = {"body": BODY, "feet": FEET, "face": FACE, "left_hand": LEFT_HAND, "right_hand": RIGHT_HAND}

BODY_NAMES = ("nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
              "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
              "right_eye", "left_eye", "right_ear", "left_ear")  # fmt: skip
FEET_NAMES = ("left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel")
NOSE, NECK = 0, 1
RIGHT_SHOULDER, RIGHT_WRIST, LEFT_SHOULDER, LEFT_WRIST = 2, 4, 5, 7
RIGHT_HIP, LEFT_HIP = 8, 11
CENTRES = {"face": NOSE, "left_hand": LEFT_WRIST, "right_hand": RIGHT_WRIST}  # the joint that a part hangs on
CONTACT_JOINTS = (18, 20, 21, 23)  # left toe, left heel, right toe, right heel: what touches the floor
THRESHOLD = 0.3  # a joint below this confidence is not there

# Limbs and colours (RGB) of DWPose's draw_bodypose: limb i and joint i share colour i. Feet are not drawn there.
LIMBS = np.array([(1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
                  (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)])  # fmt: skip
COLOURS = np.array([(255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0),
                    (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255),
                    (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)], np.uint8)  # fmt: skip
LIMB_DIM = 0.6  # limbs are dimmed, joints are not
HAND_LIMBS = np.array([(0 if finger_joint == 0 else 4 * finger + finger_joint, 4 * finger + finger_joint + 1)
                       for finger in range(5) for finger_joint in range(4)])  # fmt: skip
HAND_COLOURS = np.array([np.multiply(colorsys.hsv_to_rgb(i / 20, 1, 1), 255) for i in range(20)]).astype(np.uint8)
HAND_JOINT_COLOUR = np.array((0, 0, 255), np.uint8)
FACE_COLOUR = np.array((255, 255, 255), np.uint8)

# The tree that retargeting walks: parent of each of the 24 body and feet joints; ROOT is the middle of the hips.
ROOT = -1
PARENTS = np.array([1, ROOT, 1, 2, 3, 1, 5, 6, ROOT, 8, 9, ROOT, 11, 12, 0, 0, 14, 15, 13, 13, 13, 10, 10, 10])
TREE_ORDER = (1, 8, 11, 0, 2, 5, 9, 12, 3, 6, 10, 13, 14, 15, 4, 7, 16, 17, 18, 19, 20, 21, 22, 23)  # parents come first


def _mirror_table() -> np.ndarray:
    table = np.arange(J)
    body = [(2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13), (14, 15), (16, 17), (18, 21), (19, 22), (20, 23)]
    jaw_and_brows = [(i, 16 - i) for i in range(8)] + [(17 + i, 26 - i) for i in range(5)]
    nose_and_eyes = [(31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    mouth = [(48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67)]
    face = [(a + FACE.start, b + FACE.start) for a, b in jaw_and_brows + nose_and_eyes + mouth]
    hands = [(LEFT_HAND.start + i, RIGHT_HAND.start + i) for i in range(21)]
    for a, b in body + face + hands:
        table[a], table[b] = b, a
    return table


MIRROR = _mirror_table()  # joint j of a mirrored person is joint MIRROR[j] of the person


def mirror(keypoints, confidence, width: float):
    """The pose seen in a mirror: flips x inside a frame of `width` and swaps left and right joints.

    Args:
        keypoints: [..., J, 2] pixels, NumPy or JAX.
        confidence: [..., J] 0..1.
        width: width of the frame in pixels; 0 for coordinates centred on zero.
    Returns:
        (keypoints [..., J, 2], confidence [..., J]) of the same kind of array. Its own inverse.
    """
    flipped = keypoints[..., MIRROR, :] * np.array([-1, 1], keypoints.dtype) + np.array([width, 0], keypoints.dtype)
    return flipped, confidence[..., MIRROR]


def hips(keypoints):
    """The middle of the hips of keypoints [...,J,2], NumPy or JAX: [...,2]."""
    return (keypoints[..., RIGHT_HIP, :] + keypoints[..., LEFT_HIP, :]) / 2


def bones(keypoints, xp=np):
    """Vectors to the 24 body and feet joints, each from its parent in `PARENTS`: [...,J,2] -> [...,24,2].

    xp: the module of the arrays, numpy or jax.numpy.
    """
    with_root = xp.concatenate([keypoints[..., : FEET.stop, :], hips(keypoints)[..., None, :]], axis=-2)  # parent -1 is the last
    return with_root[..., : FEET.stop, :] - with_root[..., PARENTS, :]


def bone_confidence(confidence, xp=np):
    """The least confidence of the joints that a bone hangs on: [...,J] -> [...,24]; xp as in `bones`."""
    middle = xp.minimum(confidence[..., RIGHT_HIP], confidence[..., LEFT_HIP])
    with_root = xp.concatenate([confidence[..., : FEET.stop], middle[..., None]], axis=-1)
    return xp.minimum(with_root[..., : FEET.stop], with_root[..., PARENTS])


class Strokes(NamedTuple):
    """Radii in pixels of what a pose map is drawn with."""

    limb: float
    joint: float
    hand_line: float
    hand_joint: float
    face_dot: float


def strokes(size: tuple[int, int]) -> Strokes:
    """Radii for a map of `size` (H, W): DWPose's at 512 pixels, in proportion elsewhere, never too thin to read.

    The floors bind at small sizes (limbs below 140 pixels), where proportional lines would vanish between pixels.
    """
    scale = min(size) / 512
    return Strokes(
        limb=max(4 * scale, 1.1),
        joint=max(4 * scale, 1.3),
        hand_line=max(1 * scale, 0.5),
        hand_joint=max(4 * scale, 0.6),
        face_dot=max(3 * scale, 0.5),
    )
