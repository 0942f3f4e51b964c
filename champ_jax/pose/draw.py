"""Draws poses on the host, in DWPose's style: what the `dwpose` guidance map is.

Follows `draw_bodypose`, `draw_handpose` and `draw_facepose` of DWPose (17 elliptic limbs dimmed by 0.6, joints on top, then each
hand, then white face dots), with sub-pixel positions and anti-aliasing: `differentiable.pose_map` draws the same on a device.
"""

import cv2
import numpy as np

from champ_jax.pose import skeleton as sk

SHIFT = 4  # cv2 takes coordinates in 1/16 pixel
OUTLINE = np.linspace(0, 2 * np.pi, 24, endpoint=False)
ELLIPSE = np.stack([np.cos(OUTLINE), np.sin(OUTLINE)], -1)
HAND_LINES = np.concatenate([sk.HAND_LIMBS + sk.LEFT_HAND.start, sk.HAND_LIMBS + sk.RIGHT_HAND.start])


def draw(keypoints: np.ndarray, confidence: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draws one pose on black.

    Args:
        keypoints: [J, 2] f32, continuous pixel coordinates (x, y); points may lie outside the frame.
        confidence: [J] f32 0..1; joints below 0.3, or not finite, are left out with the limbs that end in them.
        size: (H, W) of the map.
    Returns:
        u8 [H, W, 3], RGB.
    """
    keypoints = np.asarray(keypoints, np.float32)
    seen = (np.asarray(confidence) >= sk.THRESHOLD) & np.isfinite(keypoints).all(-1)
    widths = sk.strokes(size)
    zoom = _supersampling(size)
    canvas = np.zeros((size[0] * zoom, size[1] * zoom, 3), np.uint8)
    reach = 4 * max(size)  # cv2's fixed point overflows on wild coordinates
    points = np.clip(np.where(seen[:, None], keypoints, 0), -reach, reach) * zoom - 0.5  # cv2 counts from pixel centres
    _limbs(canvas, points, seen, widths.limb * zoom)
    _dots(canvas, points[sk.BODY], seen[sk.BODY], widths.joint * zoom, sk.COLOURS.tolist())
    for hand, lines in ((sk.LEFT_HAND, HAND_LINES[:20]), (sk.RIGHT_HAND, HAND_LINES[20:])):
        _hand_lines(canvas, points, seen, widths.hand_line * zoom, lines)
        _dots(canvas, points[hand], seen[hand], widths.hand_joint * zoom, [sk.HAND_JOINT_COLOUR.tolist()] * 21)
    _dots(canvas, points[sk.FACE], seen[sk.FACE], widths.face_dot * zoom, [sk.FACE_COLOUR.tolist()] * 68)
    return canvas if zoom == 1 else cv2.resize(canvas, size[::-1], interpolation=cv2.INTER_AREA)


def draw_clip(keypoints: np.ndarray, confidence: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draws the poses [F, J, 2] with confidence [F, J] of a clip: u8 [F, H, W, 3]. See `draw`."""
    return np.stack([draw(points, sure, size) for points, sure in zip(keypoints, confidence, strict=True)])


def _supersampling(size: tuple[int, int]) -> int:
    """Drawn at several times the size and averaged where lines are thin; large maps need none and cost time."""
    return 4 if max(size) <= 160 else 2 if max(size) <= 640 else 1


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * (1 << SHIFT)).astype(np.int32)


def _limbs(canvas: np.ndarray, points: np.ndarray, seen: np.ndarray, half_width: float) -> None:
    """Ellipses between joints, later limbs over earlier ones; points [J, 2]."""
    start, end = points[sk.LIMBS[:, 0]], points[sk.LIMBS[:, 1]]
    along = (end - start) / 2
    length = np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-6)
    across = along[:, ::-1] * (-1, 1) / length * half_width
    outline = (start + end)[:, None] / 2 + ELLIPSE[:, :1] * along[:, None] + ELLIPSE[:, 1:] * across[:, None]
    outline = _fixed(outline)
    colours = (sk.COLOURS * sk.LIMB_DIM).astype(np.uint8).tolist()
    for i in np.flatnonzero(seen[sk.LIMBS].all(-1)):
        cv2.fillConvexPoly(canvas, outline[i], colours[i], cv2.LINE_8, SHIFT)


def _hand_lines(canvas: np.ndarray, points: np.ndarray, seen: np.ndarray, half_width: float, lines: np.ndarray) -> None:
    ends = _fixed(points[lines]).tolist()
    colours, thickness = sk.HAND_COLOURS.tolist(), max(1, round(2 * half_width))
    for i in np.flatnonzero(seen[lines].all(-1)):
        cv2.line(canvas, ends[i][0], ends[i][1], colours[i], thickness, cv2.LINE_8, SHIFT)


def _dots(canvas: np.ndarray, points: np.ndarray, seen: np.ndarray, radius: float, colours: list) -> None:
    centres, radius = _fixed(points).tolist(), int(round(radius * (1 << SHIFT)))
    for i in np.flatnonzero(seen):
        cv2.circle(canvas, centres[i], radius, colours[i], -1, cv2.LINE_8, SHIFT)
