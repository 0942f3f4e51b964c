"""The 134 keypoints (champ_jax/pose/skeleton.py) on the rendered body: each is a point fixed to one bone.

Limb, foot and finger points are bone heads and tails or MakeHuman's joint cubes. The 68 face points (iBUG order) are vertices: the
outer vertex of the standard head nearest to a hand-measured place. Heels are the rearmost low vertices of the feet. Everything is
chosen once on the standard body; because all identities share the mesh, a vertex is the same place on everybody.
"""

import functools

import numpy as np

from champ_jax.data.dancers.body import FINGERS, Shape, load_body, standard_shape, vertex_normals

BODY_BONES = (
    "upperarm_r",
    "lowerarm_r",
    "hand_r",
    "upperarm_l",
    "lowerarm_l",
    "hand_l",
    "thigh_r",
    "calf_r",
    "foot_r",
    "thigh_l",
    "calf_l",
    "foot_l",
)  # keypoints 2..13
NECK, SHOULDERS, NOSE_TIP = 1, (2, 5), 24 + 30
# (x, y, z) on the standard head in metres, the person's right half (x < 0) of each feature, outer point first
_JAW = (
    (-0.073, 0.893, 0.06),
    (-0.073, 0.873, 0.07),
    (-0.071, 0.853, 0.08),
    (-0.067, 0.834, 0.09),
    (-0.060, 0.818, 0.10),
    (-0.048, 0.803, 0.115),
    (-0.034, 0.792, 0.13),
    (-0.017, 0.785, 0.14),
    (0, 0.783, 0.144),
)
_BROW = tuple((x, 0.9265 - 9 * (abs(x) - 0.032) ** 2, 0.15) for x in (-0.052, -0.043, -0.033, -0.023, -0.014))
_NOSE = (
    (0, 0.903, 0.157),
    (0, 0.888, 0.159),
    (0, 0.876, 0.167),
    (0, 0.863, 0.175),
    (-0.016, 0.851, 0.155),
    (-0.008, 0.849, 0.163),
    (0, 0.848, 0.166),
    (0.008, 0.849, 0.163),
    (0.016, 0.851, 0.155),
)
_EYE = (
    (-0.0465, 0.899, 0.142),
    (-0.037, 0.9047, 0.149),
    (-0.026, 0.9047, 0.150),
    (-0.0165, 0.897, 0.147),
    (-0.026, 0.8925, 0.148),
    (-0.037, 0.8925, 0.147),
)
_MOUTH = (
    (-0.0245, 0.8265, 0.149),
    (-0.016, 0.833, 0.158),
    (-0.007, 0.8372, 0.163),
    (0, 0.836, 0.164),
    (0.007, 0.8372, 0.163),
    (0.016, 0.833, 0.158),
    (0.0245, 0.8265, 0.149),
    (0.016, 0.8195, 0.156),
    (0.008, 0.816, 0.161),
    (0, 0.8152, 0.162),
    (-0.008, 0.816, 0.161),
    (-0.016, 0.8195, 0.156),
    (-0.020, 0.8265, 0.152),
    (-0.008, 0.829, 0.162),
    (0, 0.829, 0.163),
    (0.008, 0.829, 0.162),
    (0.020, 0.8265, 0.152),
    (0.008, 0.8255, 0.162),
    (0, 0.8255, 0.163),
    (-0.008, 0.8255, 0.162),
)


def rest_keypoints(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """The keypoints of a person at rest, f32 [134,3], and the bone each moves with, i32 [134]."""
    ends, bones = _choice()
    points = [
        shape.heads[k] if kind == "head" else shape.tails[k] if kind == "tail" else shape.vertices[index].mean(0)
        for kind, index, k in zip(ends, _vertices(), bones)
    ]
    return np.array(points, np.float32), bones


def pose_keypoints(rest: np.ndarray, bones: np.ndarray, rest_heads: np.ndarray, rotations: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """Keypoints of posed frames, f32 [F,134,3], from `rest_keypoints`, global rotations [F,K,3,3] and bone heads [F,K,3]."""
    offsets = (rest - rest_heads[bones])[:, :, None]
    points = heads[:, bones] + (rotations[:, bones] @ offsets)[..., 0]
    points[:, NECK] = points[:, SHOULDERS].mean(1)
    return points


@functools.lru_cache(maxsize=1)
def _choice() -> tuple[list, np.ndarray]:
    """For each keypoint what it is ("head" or "tail" of its bone, or "vertices") and its bone."""
    body = load_body()
    head = "head"
    what = [("vertices", head), ("head", "neck_01"), *(("head", bone) for bone in BODY_BONES), *[("vertices", head)] * 4]
    what += [("vertices", bone) for side in "lr" for bone in (f"ball_{side}", f"ball_{side}", f"foot_{side}")]
    what += [("vertices", head)] * 68
    for side in "lr":
        what.append(("head", f"hand_{side}"))
        for finger in FINGERS:
            what += [("head", f"{finger}_0{i}_{side}") for i in (1, 2, 3)] + [("tail", f"{finger}_03_{side}")]
    return [kind for kind, _ in what], np.array([body.bone(bone) for _, bone in what], np.int32)


@functools.lru_cache(maxsize=1)
def _vertices() -> list:
    """Vertex indices of each keypoint that is made of vertices (others: empty)."""
    body = load_body()
    shape = standard_shape()
    v = shape.vertices
    faces = body.layers["body"]
    normals = np.empty_like(v)
    vertex_normals(v, faces, normals)
    skin = np.unique(faces)

    def mirrored(points: tuple, order: tuple) -> list:
        return [points[i] for i in order[0]] + [(-points[i][0], *points[i][1:]) for i in order[1]]

    face = mirrored(_JAW, (range(9), range(7, -1, -1))) + mirrored(_BROW, (range(5), range(4, -1, -1))) + list(_NOSE)
    face += mirrored(_EYE, (range(6), (3, 2, 1, 0, 5, 4))) + list(_MOUTH)
    outer = skin[(normals[skin, 2] > -0.1) & (v[skin, 2] > 0.03) & (v[skin, 1] > 0.75)]
    face = [outer[np.argmin(((v[outer] - np.array(place)) ** 2 * (1, 1, 0.3)).sum(1))][None] for place in face]
    heels = {}
    for side, sign in (("l", 1), ("r", -1)):
        low = skin[(v[skin, 0] * sign > 0) & (v[skin, 1] < -0.78)]
        heels[side] = low[np.argsort(v[low, 2])[:12]]
    ear = {side: skin[np.argsort(((v[skin] - (sign * 0.08, 0.885, 0.05)) ** 2).sum(1))[:8]] for side, sign in (("l", 1), ("r", -1))}
    none = np.zeros(0, int)
    result = [face[30]] + [none] * 13 + [body.landmarks["eye_r"], body.landmarks["eye_l"], ear["r"], ear["l"]]
    for side in "lr":
        result += [body.landmarks[f"big_toe_{side}"], body.landmarks[f"small_toe_{side}"], heels[side]]
    return result + face + [none] * 42
