"""Motion capture on the dancers' skeleton: two readers, one retargeting, and `Motion`, a pose a frame that can be warped in time.

Sources (assets/mocap, licences beside them): DeepMimic `humanoid3d_*.txt` (44 numbers a frame: duration, root position, then
rotations; y up, x forward) and CMU `.bvh` (y up, z forward). A source gives global rotations of its segments and their rest
directions; a bone's global rotation is the segment's, after the smallest rotation that lays the bone's rest direction on the
segment's. Rotations here are deltas from the body's rest pose in world axes, so no bone has a frame of its own.
"""

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from champ_jax.data.dancers.body import FINGERS, Body, Shape, forward_kinematics, load_body, standard_shape
from champ_jax.errors import UserError

MOCAP = Path(__file__).resolve().parents[3] / "assets" / "mocap"
# name -> (file, first second, last second, seconds cross-faded to close the loop); None: to the end
MOTIONS = {
    "dance_a": ("humanoid3d_dance_a.txt", 0.0, None, 0.15),
    "dance_b": ("humanoid3d_dance_b.txt", 0.0, None, 0.15),
    "walk": ("humanoid3d_walk.txt", 0.0, None, 0.1),
    "spin": ("humanoid3d_spin.txt", 0.0, None, 0.25),
    "kick": ("humanoid3d_kick.txt", 0.0, None, 0.25),
    "jump": ("humanoid3d_jump.txt", 0.0, None, 0.25),
    "cartwheel": ("humanoid3d_cartwheel.txt", 0.0, None, 0.25),
    "hops": ("01_01.bvh", 0.5, 9.0, 0.4),
    "reach": ("01_03.bvh", 0.3, 8.9, 0.4),
}
DEEPMIMIC = (  # (segment, parent, size of its rotation) in the order of a frame
    ("root", None, 4),
    ("chest", "root", 4),
    ("neck", "chest", 4),
    ("hip_r", "root", 4),
    ("knee_r", "hip_r", 1),
    ("ankle_r", "knee_r", 4),
    ("shoulder_r", "chest", 4),
    ("elbow_r", "shoulder_r", 1),
    ("hip_l", "root", 4),
    ("knee_l", "hip_l", 1),
    ("ankle_l", "knee_l", 4),
    ("shoulder_l", "chest", 4),
    ("elbow_l", "shoulder_l", 1),
)
DEEPMIMIC_LEG = 0.83  # metres from hip to ankle
DOWN = np.array([0.0, -1.0, 0.0])
BVH_BONES = {"Hips": "pelvis", "LowerBack": "spine_01", "Spine": "spine_02", "Spine1": "spine_03", "Neck": "neck_01", "Head": "head"}
BVH_BONES |= {
    f"{side}{joint}": f"{bone}_{side[0].lower()}"
    for side in ("Left", "Right")
    for joint, bone in (
        ("Shoulder", "clavicle"),
        ("Arm", "upperarm"),
        ("ForeArm", "lowerarm"),
        ("UpLeg", "thigh"),
        ("Leg", "calf"),
        ("Foot", "foot"),
    )
}


@dataclass(frozen=True)
class Motion:
    """A pose for each of F frames, independent of the person.

    rotations f32 [F,K,4]: quaternions wxyz, bone relative to its parent; root f32 [F,3]: pelvis position in leg lengths (hip to
    ankle), floor near y = -1; looping: the frame after the last is the first.
    """

    name: str
    fps: float
    rotations: np.ndarray
    root: np.ndarray
    looping: bool = True

    def __len__(self) -> int:
        return len(self.rotations)

    @property
    def duration(self) -> float:
        """Seconds; of a looping motion, its period."""
        return len(self) / self.fps

    def resample(self, times_s: np.ndarray, fps: float | None = None) -> "Motion":
        """The motion at the given seconds (f64 [N], any order; wraps when looping, else holds its ends), as N frames at `fps`."""
        position = np.asarray(times_s, np.float64) * self.fps
        count = len(self)
        position = np.mod(position, count) if self.looping else np.clip(position, 0, count - 1)
        first = np.floor(position).astype(int) % count
        second = (first + 1) % count if self.looping else np.minimum(first + 1, count - 1)
        share = (position - np.floor(position)).astype(np.float32)
        rotations = slerp(self.rotations[first], self.rotations[second], share[:, None])
        root = self.root[first] + share[:, None] * (self.root[second] - self.root[first])
        return Motion(self.name, fps or self.fps, rotations, root.astype(np.float32), False)

    def slice(self, first: int, count: int) -> "Motion":
        """`count` frames from `first`, no longer looping."""
        return replace(self, rotations=self.rotations[first : first + count], root=self.root[first : first + count], looping=False)

    def turned(self, degrees: np.ndarray) -> "Motion":
        """The same movements by somebody who turns: frame i stands `degrees`[i] (f64 [F]) about the vertical, towards the person's left."""
        turn = _axis_matrix(np.deg2rad(degrees), 1).astype(np.float32)
        rotations = self.rotations.copy()
        rotations[:, 0] = to_quaternion(turn @ to_matrix(self.rotations[:, 0]))
        return replace(self, rotations=rotations, root=np.einsum("fij,fj->fi", turn, self.root), looping=False)

    def global_rotations(self) -> np.ndarray:
        """Each bone's rotation away from the rest pose, f32 [F,K,3,3]."""
        parents = load_body().parents
        result = to_matrix(self.rotations)
        for k in range(1, len(parents)):
            result[:, k] = result[:, parents[k]] @ result[:, k]
        return result

    def positions(self, shape: Shape | None = None) -> np.ndarray:
        """Bone heads in metres, f32 [F,K,3], of a person (the standard one if None)."""
        shape = shape or standard_shape()
        body = load_body()
        return forward_kinematics(shape, body.parents, self.global_rotations(), self.root * leg_length(body, shape))


def leg_length(body: Body, shape: Shape) -> float:
    """Metres from hip to knee to ankle."""
    hip, knee, ankle = (shape.heads[body.bone(name)] for name in ("thigh_l", "calf_l", "foot_l"))
    return float(np.linalg.norm(knee - hip) + np.linalg.norm(ankle - knee))


@functools.lru_cache(maxsize=32)
def load_motion(name: str, fps: float = 24.0) -> Motion:
    """A named motion at `fps`: one period of its loop, facing +z on average and standing in place."""
    if name not in MOTIONS:
        raise UserError(f"motion {name!r} is unknown: expected one of {', '.join(MOTIONS)}")
    file, first, last, fade = MOTIONS[name]
    path = MOCAP / file
    if not path.is_file():
        raise UserError(f"{path}: motion capture file is missing; restore assets/mocap of the repository")
    rotations, root, source_fps = (read_bvh if path.suffix == ".bvh" else read_deepmimic)(path)
    window = slice(round(first * source_fps), None if last is None else round(last * source_fps))
    source = Motion(name, source_fps, to_quaternion(_local(rotations[window])), _in_place(root[window]), False)
    source = _face_forward(source)
    period = source.duration - fade
    count = max(2, round(period * fps))
    times = np.arange(count) * (period / count)
    motion = source.resample(times, fps)
    early = times < fade  # the start is faded with what follows the end, so that the loop closes
    tail = source.resample(times[early] + period)
    share = (times[early] / fade).astype(np.float32)
    rotations, root = motion.rotations.copy(), motion.root.copy()
    rotations[early] = slerp(tail.rotations, rotations[early], share[:, None])
    root[early] = tail.root + share[:, None] * (root[early] - tail.root)
    return _move_fingers(Motion(name, fps, rotations, root, True))


def read_deepmimic(path: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """A DeepMimic file as global bone rotations f32 [F,K,3,3], pelvis positions in leg lengths [F,3] and frames a second."""
    try:
        frames = np.array(json.loads(path.read_text())["Frames"], np.float64)
    except (json.JSONDecodeError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a DeepMimic motion ({error}); expected JSON with equal rows in 'Frames'") from error
    if frames.ndim != 2 or frames.shape[1] != 44:
        raise UserError(f"{path}: DeepMimic humanoid frames have 44 numbers, found shape {frames.shape}")
    turn = np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]], np.float64)  # x forward, z right -> z forward, x left
    segments, column = {}, 4
    for name, parent, size in DEEPMIMIC:
        value = frames[:, column : column + size]
        column += size
        if size == 1:  # a hinge about the lateral axis
            value = np.concatenate([np.cos(value / 2), 0 * value, 0 * value, np.sin(value / 2)], 1)
        local = to_matrix(value / np.linalg.norm(value, axis=1, keepdims=True))
        segments[name] = local if parent is None else segments[parent] @ local
    segments = {name: turn @ value @ turn.T for name, value in segments.items()}
    half = to_matrix(slerp(to_quaternion(segments["root"]), to_quaternion(segments["chest"]), 0.5))
    nod = to_matrix(slerp(to_quaternion(segments["chest"]), to_quaternion(segments["neck"]), 0.5))
    given = {
        "pelvis": (segments["root"], None),
        "spine_01": (half, None),
        "spine_02": (segments["chest"], None),
        "neck_01": (nod, None),
        "head": (segments["neck"], None),
    }
    for side in "lr":
        given |= {
            f"{bone}_{side}": (segments[f"{segment}_{side}"], rest)
            for bone, segment, rest in (
                ("thigh", "hip", DOWN),
                ("calf", "knee", DOWN),
                ("foot", "ankle", None),
                ("upperarm", "shoulder", DOWN),
                ("lowerarm", "elbow", DOWN),
            )
        }
    return _retarget(given), (frames[:, 1:4] @ turn.T) / DEEPMIMIC_LEG, 1 / float(np.median(frames[:-1, 0]))


def read_bvh(path: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """A CMU BVH file (cgspeed's joint names), returned like `read_deepmimic`."""
    header, _, data = path.read_text().partition("MOTION")
    names, parents, offsets, stack, ended = [], [], [], [], False
    for line in header.splitlines():
        word = line.split()
        if not word:
            continue
        if word[0] in ("ROOT", "JOINT"):
            parents.append(stack[-1] if stack else -1)
            names.append(word[1])
        elif word[0] == "End":
            ended = True
        elif word[0] == "{":
            stack.append(-1 if ended else len(names) - 1)
            ended = False
        elif word[0] == "}":
            stack.pop()
        elif word[0] == "OFFSET" and stack[-1] >= 0:
            offsets.append([float(x) for x in word[1:4]])
    rows = data.split()
    if set(BVH_BONES) - set(names) or len(rows) < 8:
        raise UserError(f"{path}: expected a CMU .bvh with joints {', '.join(BVH_BONES)}; found {', '.join(names) or 'none'}")
    values = np.array(rows[5:], np.float64).reshape(int(rows[1]), 3 + 3 * len(names))
    angles = np.deg2rad(values[:, 3:].reshape(len(values), len(names), 3))
    rotations = _axis_matrix(angles[..., 0], 2) @ _axis_matrix(angles[..., 1], 1) @ _axis_matrix(angles[..., 2], 0)
    for k in range(1, len(names)):
        rotations[:, k] = rotations[:, parents[k]] @ rotations[:, k]
    offset = dict(zip(names, np.array(offsets)))
    given = {}
    for joint, bone in BVH_BONES.items():
        child = {"Arm": "ForeArm", "ForeArm": "Hand", "UpLeg": "Leg", "Leg": "Foot"}.get(joint.removeprefix("Left").removeprefix("Right"))
        side = "Left" if joint.startswith("Left") else "Right"
        given[bone] = (rotations[:, names.index(joint)], offset[side + child] if child else None)
    leg = np.linalg.norm(offset["LeftLeg"]) + np.linalg.norm(offset["LeftFoot"])
    return _retarget(given), values[:, :3] / leg, 1 / float(rows[4])


def slerp(a: np.ndarray, b: np.ndarray, share) -> np.ndarray:
    """Spherical interpolation of unit quaternions [...,4] along the shorter arc; `share` broadcasts to [...]."""
    dot = (a * b).sum(-1, keepdims=True)
    b = np.where(dot < 0, -b, b)
    angle = np.arccos(np.clip(np.abs(dot), 0, 1))
    share = np.asarray(share)[..., None] * np.ones_like(angle)
    near = angle < 1e-3
    sine = np.where(near, 1, np.sin(angle))
    result = np.where(near, 1 - share, np.sin((1 - share) * angle) / sine) * a + np.where(near, share, np.sin(share * angle) / sine) * b
    return (result / np.linalg.norm(result, axis=-1, keepdims=True)).astype(np.float32)


def to_matrix(q: np.ndarray) -> np.ndarray:
    """Rotation matrices [...,3,3] of unit quaternions wxyz [...,4]."""
    w, x, y, z = np.moveaxis(q, -1, 0)
    rows = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    ]
    return np.stack(rows, -1).reshape(q.shape[:-1] + (3, 3))


def to_quaternion(m: np.ndarray) -> np.ndarray:
    """Unit quaternions wxyz [...,4] of rotation matrices [...,3,3], consecutive frames (axis 0) on the same side."""
    from scipy.spatial.transform import Rotation

    q = Rotation.from_matrix(m.reshape(-1, 3, 3)).as_quat()[:, [3, 0, 1, 2]].reshape(m.shape[:-2] + (4,))
    flips = np.where((q[1:] * q[:-1]).sum(-1) < 0, -1.0, 1.0)
    q[1:] *= np.cumprod(flips, 0)[..., None]
    return q.astype(np.float32)


def _axis_matrix(angle: np.ndarray, axis: int) -> np.ndarray:
    i, j = (axis + 1) % 3, (axis + 2) % 3
    m = np.zeros(angle.shape + (3, 3))
    m[..., axis, axis] = 1
    m[..., i, i] = m[..., j, j] = np.cos(angle)
    m[..., j, i] = np.sin(angle)
    m[..., i, j] = -m[..., j, i]
    return m


def _between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation [3,3] that turns direction a into direction b."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    axis = np.cross(a, b)
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1 + a @ b)


def _retarget(given: dict) -> np.ndarray:
    """Global bone rotations f32 [F,K,3,3] from {bone: (source rotations [F,3,3], source rest direction or None: as the bone's)}.

    Limbs align from the trunk outwards, so an elbow keeps the plane it bends in. Bones not given move with their parent.
    """
    body, shape = load_body(), standard_shape()
    frames = len(given["pelvis"][0])
    result, align = np.empty((frames, len(body.bones), 3, 3)), np.tile(np.eye(3), (len(body.bones), 1, 1))
    ends = {"upperarm": "lowerarm", "lowerarm": "hand", "thigh": "calf", "calf": "foot"}
    for k, name in enumerate(body.bones):
        parent = body.parents[k]
        if name not in given:
            result[:, k] = result[:, parent]
            continue
        rotation, rest = given[name]
        if rest is not None:
            own = shape.heads[body.bone(ends[name[:-2]] + name[-2:])] - shape.heads[k]
            align[k] = _between(align[parent] @ own, rest) @ align[parent]
        result[:, k] = rotation @ align[k]
    return result.astype(np.float32)


def _local(rotations: np.ndarray) -> np.ndarray:
    parents = load_body().parents
    local = rotations.copy()
    local[:, 1:] = np.swapaxes(rotations[:, parents[1:]], -1, -2) @ rotations[:, 1:]
    return local


def _in_place(root: np.ndarray) -> np.ndarray:
    """Pelvis positions without travel: the straight-line drift goes, the rest stays within a step of the spot."""
    ramp = np.linspace(-0.5, 0.5, len(root))[:, None]
    flat = root[:, [0, 2]]
    drift = np.polyfit(ramp[:, 0], flat, 1)[0]
    flat = flat - flat.mean(0) - ramp * drift
    reach = 0.15
    flat = reach * np.tanh(flat / reach)
    return np.stack([flat[:, 0], root[:, 1], flat[:, 1]], 1).astype(np.float32)


def _face_forward(motion: Motion) -> Motion:
    forward = to_matrix(motion.rotations[:, 0])[..., 2].mean(0)
    turn = _axis_matrix(np.array(-np.arctan2(forward[0], forward[2])), 1)
    rotations = motion.rotations.copy()
    rotations[:, 0] = to_quaternion(turn @ to_matrix(rotations[:, 0]))
    return replace(motion, rotations=rotations, root=(motion.root @ turn.T).astype(np.float32))


def _move_fingers(motion: Motion) -> Motion:
    """Fingers open and curl slowly, each hand in its own rhythm: the sources have no hands, and stiff ones look wrong."""
    body, shape = load_body(), standard_shape()
    rotations = motion.rotations.copy()
    phase = 2 * np.pi * np.arange(len(motion)) / len(motion)
    for side, lag in (("l", 0.0), ("r", 2.1)):
        for number, finger in enumerate(FINGERS):
            bones = [body.bone(f"{finger}_0{i}_{side}") for i in (1, 2, 3)]
            way = [shape.tails[k] - shape.heads[k] for k in bones]
            axis = np.cross(way[0], way[2])
            axis /= np.linalg.norm(axis)
            curl = (0.12 if finger == "thumb" else 0.28) * (0.6 + np.sin(phase + lag - 0.25 * number))
            quaternion = np.concatenate([np.cos(curl / 2)[:, None], np.sin(curl / 2)[:, None] * axis], 1)
            rotations[:, bones] = quaternion[:, None]
    return replace(motion, rotations=rotations.astype(np.float32))
