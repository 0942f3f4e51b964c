"""Draws dancers: an identity (clothes.py) moved by a motion (mocap.py) before a camera, under a light (scene.py), and every ground
truth of it: depth, normals, body parts, mask, optical flow, 134 keypoints, face box. No GPU and no display: see raster.py.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from champ_jax.data.dancers.body import forward_kinematics, load_body, skin, vertex_normals
from champ_jax.data.dancers.clothes import PARTS, Figure, dress
from champ_jax.data.dancers.identity import Identity
from champ_jax.data.dancers.landmarks import NOSE_TIP, pose_keypoints, rest_keypoints
from champ_jax.data.dancers.mocap import Motion, leg_length
from champ_jax.data.dancers.raster import interpolate, rasterise, shade
from champ_jax.data.dancers.scene import Background, Camera, Light, View, fit, render_background

# One colour a body part, background black; left and right differ. Order: clothes.PARTS.
PART_COLOURS = np.array(
    [
        (70, 80, 230),
        (250, 220, 60),
        (230, 60, 60),
        (60, 200, 90),
        (250, 140, 60),
        (60, 220, 200),
        (250, 190, 170),
        (180, 250, 150),
        (200, 50, 170),
        (40, 130, 250),
        (250, 110, 210),
        (110, 190, 255),
        (150, 40, 110),
        (20, 80, 160),
    ],
    np.uint8,
)
assert len(PART_COLOURS) == len(PARTS)
SUPERSAMPLING = 2
DEPTH_MARGIN = 0.05  # metres added before the nearest and behind the farthest point of a clip, for the depth map's range


@dataclass(frozen=True)
class Performance:
    """A figure moved by a motion before a camera: everything that is the same whichever frame is drawn.

    rotations f32 [F,K,3,3], heads f32 [F,K,3]: the pose in the world, feet on the floor y = 0; keypoints f32 [F,134,3] world.
    """

    figure: Figure
    rotations: np.ndarray
    heads: np.ndarray
    keypoints: np.ndarray
    view: View
    size: tuple

    def vertices(self, frame: int) -> np.ndarray:
        """The posed mesh of a frame in camera space, f32 [N,3]."""
        out = np.empty_like(self.figure.rest)
        skin(
            self.figure.rest,
            self.figure.shape.heads,
            self.figure.weight_bones,
            self.figure.weights,
            self.rotations[frame],
            self.heads[frame],
            out,
        )
        return self.view.transform(out)


def perform(identity: Identity, motion: Motion, camera: Camera, size: tuple[int, int]) -> Performance:
    """Poses the identity's figure, stands it on the floor and fits the camera to all of the motion."""
    figure, body = dress(identity), load_body()
    shape = figure.shape
    rotations = motion.global_rotations()
    heads = forward_kinematics(shape, body.parents, rotations, motion.root * leg_length(body, shape))
    rest, bones = rest_keypoints(shape)
    keypoints = pose_keypoints(rest, bones, shape.heads, rotations, heads)
    sole = rest[18:24, 1].mean() - shape.vertices[np.unique(body.layers["body"]), 1].min() + 0.012
    floor = np.percentile(keypoints[:, 18:24, 1].min(1), 3) - sole
    heads[..., 1] -= floor
    keypoints[..., 1] -= floor
    standing = float(np.ptp(shape.vertices[np.unique(body.layers["body"]), 1]))
    view = fit(camera, _outline(figure, rotations, heads), standing, size)
    return Performance(figure, rotations, heads, keypoints, view, size)


def render_clip(identity: Identity, motion: Motion, camera: Camera, light: Light, background: Background, frame_index, size) -> dict:
    """Renders a clip: keypoints for all T motion frames, pixels for the n of `frame_index`.

    size: (H, W). Returns arrays:
      frames u8 [n,H,W,3]; depth u8 [n,H,W] (255 near .. 1 far, 0 background); metric_depth f32 [n,H,W] (metres, 0 background);
      depth_range f32 [n,2] near and far metres; normal u8 [n,H,W,3] ((n+1)/2, x right, y up, z to the camera; 0 background);
      semantic_map u8 [n,H,W,3]; mask u8 [n,H,W] 0/1; flow f32 [n,H,W,2] pixels to the next rendered frame (zeros for the last);
      kps f32 [T,134,2] pixels; kps_conf f32 [T,134]; face_box f32 [T,4] xyxy pixels, zeros where the face is turned away;
      bbox f32 [T,4]; contacts u8 [T,4]; frame_index i32 [n]; camera f32 [15].
    """
    frame_index = np.asarray(frame_index, np.int32)
    show = perform(identity, motion, camera, size)
    scene = render_background(background, show.view, size)
    projected = show.view.transform(show.keypoints)
    kps = show.view.project(projected, size)
    depths, result = {}, {name: [] for name in ("frames", "metric_depth", "normal", "semantic_map", "mask", "flow")}
    points = [show.vertices(i) for i in frame_index]
    for n, i in enumerate(frame_index):
        following = points[min(n + 1, len(points) - 1)]
        for name, value in _render_frame(show, points[n], following, light.numbers(), scene).items():
            result[name].append(value)
        depths[int(i)] = result["metric_depth"][-1]
    shapes = {"frames": (3,), "normal": (3,), "semantic_map": (3,), "flow": (2,)}
    kinds = {"metric_depth": np.float32, "flow": np.float32}
    out = {name: np.array(values, kinds.get(name, np.uint8)).reshape(-1, *size, *shapes.get(name, ())) for name, values in result.items()}
    near, far = _depth_range(out["metric_depth"])
    inside = out["mask"] > 0
    out["depth"] = np.where(inside, np.rint(1 + 254 * (far - out["metric_depth"]) / (far - near)).clip(1, 255), 0).astype(np.uint8)
    confidence = _confidence(show, projected, kps, depths, size)
    out |= {
        "depth_range": np.tile(np.array([[near, far]], np.float32), (len(frame_index), 1)),
        "kps": kps,
        "kps_conf": confidence,
        "face_box": _face_box(kps, confidence, size),
        "bbox": np.concatenate([kps[:, :24].min(1), kps[:, :24].max(1)], 1),
        "contacts": _contacts(show, motion.fps),
        "frame_index": frame_index,
        "camera": show.view.numbers(),
    }
    return out


def render_portrait(identity: Identity) -> np.ndarray:
    """A neutral close-up of the face from the front, u8 [320,320,3]."""
    size = 320
    figure, body = dress(identity), load_body()
    shape, head = figure.shape, body.bone("head")
    tall = float(np.linalg.norm(shape.tails[head] - shape.heads[head]))
    heads = shape.heads - (shape.heads[head] * (0, 1, 1)) + np.array([0, 0.1 * tall, 0], np.float32)
    rotations = np.tile(np.eye(3, dtype=np.float32), (1, len(heads), 1, 1))
    corners = tall * np.array([[-0.85, -0.4, 0.4], [0.85, 1.4, 0.4]])
    view = fit(Camera(height=0.5, distance=7.0, fill=9.0), corners, tall, (size, size), margin=0.0)
    show = Performance(figure, rotations, heads[None].astype(np.float32), np.zeros((1, 134, 3), np.float32), view, (size, size))
    scene = np.full((size, size, 3), 0.72, np.float32)
    points = show.vertices(0)
    return _render_frame(show, points, points, Light((-0.3, -0.5, -1.0)).numbers(), scene)["frames"]


def _outline(figure: Figure, rotations: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """World points that bound the figure: every 16th vertex in at most 48 frames, f32 [F',N',3]."""
    frames = np.unique(np.linspace(0, len(heads) - 1, 48).astype(int))
    pick = np.flatnonzero(figure.keep >= 0)[::16]
    parts = [np.ascontiguousarray(part[pick]) for part in (figure.rest, figure.weight_bones, figure.weights)]
    out = np.empty((len(frames), len(pick), 3), np.float32)
    for n, i in enumerate(frames):
        skin(parts[0], figure.shape.heads, parts[1], parts[2], rotations[i], heads[i], out[n])
    return out


def _render_frame(show: Performance, points: np.ndarray, following: np.ndarray, light: np.ndarray, scene: np.ndarray) -> dict:
    """One frame's colours (supersampled) and geometry (at pixel centres)."""
    figure, (height, width) = show.figure, show.size
    normals = np.empty_like(points)
    vertex_normals(points, figure.faces, normals)
    s = SUPERSAMPLING
    triangle, weights, _ = rasterise(
        points, *show.view.intrinsics((height * s, width * s)), figure.faces, figure.keep, figure.two_sided, height * s, width * s
    )
    colours = np.repeat(np.repeat(scene, s, 0), s, 1)
    shade(triangle, weights, figure.faces, figure.layer, figure.attributes, normals, points, figure.styles, light, colours)
    rgb = cv2.resize(colours, (width, height), interpolation=cv2.INTER_AREA)

    focal, cx, cy = show.view.intrinsics(show.size)
    triangle, weights, depth = rasterise(points, focal, cx, cy, figure.faces, figure.keep, figure.two_sided, height, width)
    inside = triangle >= 0
    parts = np.zeros((height, width, 3), np.uint8)
    parts[inside] = PART_COLOURS[figure.part[triangle[inside]]]
    geometry = np.zeros((height, width, 6), np.float32)
    interpolate(triangle, weights, figure.faces, np.concatenate([normals, following], 1), geometry)
    normal = geometry[..., :3] / np.maximum(np.linalg.norm(geometry[..., :3], axis=-1, keepdims=True), 1e-9)
    normal *= np.where((normal[..., 2] > 0) & inside, -1.0, 1.0)[..., None]  # inner sides face the camera too
    encoded = np.where(inside[..., None], np.rint((normal * (1, -1, -1) + 1) * 127.5), 0)
    centres = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
    moved = show.view.project(np.where(inside[..., None], geometry[..., 3:], 1.0), show.size)
    return {
        "frames": np.rint(rgb * 255).astype(np.uint8),
        "metric_depth": depth,
        "normal": encoded.astype(np.uint8),
        "semantic_map": parts,
        "mask": inside.astype(np.uint8),
        "flow": np.where(inside[..., None], moved - centres, 0),
    }


def _depth_range(depth: np.ndarray) -> tuple[float, float]:
    """One near and far (metres) for a clip, so that its depth maps can be compared frame to frame."""
    inside = depth[depth > 0]
    return (float(inside.min()) - DEPTH_MARGIN, float(inside.max()) + DEPTH_MARGIN) if len(inside) else (0.0, 1.0)


def _confidence(show: Performance, camera_points: np.ndarray, kps: np.ndarray, depths: dict, size: tuple[int, int]) -> np.ndarray:
    """How sure a pose estimator could be, f32 [T,134].

    Face points fade as the head turns away. Rendered frames also test depth: a hidden body joint keeps 0.6 and a hidden hand 0.4,
    since estimators infer them; outside the frame is 0.
    """
    head = load_body().bone("head")
    toward = -(show.rotations[:, head] @ np.array([0.0, 0.0, 1.0], np.float32)) @ show.view.rotation[2]
    toward = toward.astype(np.float32)  # 1: faces the camera; -1: turned away
    confidence = np.ones(kps.shape[:2], np.float32)
    confidence[:, 24:92] = np.clip((toward + 0.15) / 0.4, 0, 1)[:, None]
    confidence[:, [0, 14, 15]] = np.clip((toward + 0.35) / 0.4, 0, 1)[:, None]
    sideways = (show.rotations[:, head] @ np.array([1.0, 0.0, 0.0], np.float32)) @ show.view.rotation[2]
    for ear, away in ((16, -sideways), (17, sideways)):  # the ear on the far side of the head
        confidence[:, ear] = np.clip((0.75 - away) / 0.4, 0, 1)
    thickness = np.full(kps.shape[1], 0.12, np.float32)
    thickness[24:92], thickness[92:] = 0.04, 0.05
    floor = np.full(kps.shape[1], 0.6, np.float32)
    floor[24:92], floor[92:] = 0.25, 0.4
    for i, depth in depths.items():
        x, y = (np.clip(np.floor(kps[i, :, a]).astype(int), 0, size[1 - a] - 1) for a in (0, 1))
        hidden = (depth[y, x] > 0) & (camera_points[i, :, 2] > depth[y, x] + thickness)
        confidence[i] = np.where(hidden, np.minimum(confidence[i], floor), confidence[i])
    outside = (kps < 0).any(-1) | (kps >= np.array(size[::-1])).any(-1)
    return np.where(outside, 0, confidence)


def _face_box(kps: np.ndarray, confidence: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A box round the face points with a brow's height more above, f32 [T,4]; zeros when the nose tip is not seen."""
    face = kps[:, 24:92]
    low, high = face.min(1), face.max(1)
    grow = 0.12 * (high - low).max(-1, keepdims=True)
    low = low - grow * (1, 2.5)
    box = np.concatenate([np.maximum(low, 0), np.minimum(high + grow, size[::-1])], 1)
    return np.where(confidence[:, NOSE_TIP, None] >= 0.3, box, 0).astype(np.float32)


def _contacts(show: Performance, fps: float) -> np.ndarray:
    """1 where left toe, left heel, right toe, right heel stand on the floor: low and slow. u8 [T,4]."""
    feet = show.keypoints[:, [18, 20, 21, 23]]
    speed = np.linalg.norm(np.diff(feet, axis=0, append=feet[-1:]), axis=-1) * fps
    return ((feet[..., 1] < 0.09) & (speed < 0.6)).astype(np.uint8)
