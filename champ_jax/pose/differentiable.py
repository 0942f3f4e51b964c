"""Draws poses on the device, so that gradients reach keypoints and confidences: `draw.draw` as soft shapes.

Shapes are layers of ink in the order and colours of DWPose. A layer has an optical density that falls smoothly over its outline,
so the light that passes all layers in front of it is exp(-sum of their densities): compositing is a cumulative sum and
two matrix products, and dots that share a colour simply add up.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from champ_jax.pose import skeleton as sk

SOFTNESS = 0.16  # pixels; close to averaging over a pixel, which is what the host's anti-aliasing does
GATE = 0.05  # width of the soft step at the confidence threshold
MAX_LOG_DENSITY = 4.0  # opaque; bounds the exponential deep inside a shape
FRAMES_AT_ONCE = 16  # bounds memory: about 80 density maps a frame

# One colour a layer, from the back to the front: limbs, joints, then lines and joints of either hand, then the face.
_HAND = np.concatenate([sk.HAND_COLOURS, sk.HAND_JOINT_COLOUR[None]])
LAYER_COLOURS = (
    np.concatenate([(sk.COLOURS[:17] * sk.LIMB_DIM).astype(np.uint8), sk.COLOURS, _HAND, _HAND, sk.FACE_COLOUR[None]]) / 255
).astype(np.float32)


def pose_map(
    keypoints: jax.Array,
    confidence: jax.Array,
    size: tuple[int, int],
    softness: float = SOFTNESS,
    at_once: int = FRAMES_AT_ONCE,
) -> jax.Array:
    """Draws poses on black; jit, vmap and grad go through.

    Args:
        keypoints: [B,F,J,2] f32, continuous pixel coordinates; must be finite.
        confidence: [B,F,J] 0..1; a joint fades in around 0.3, and a limb with the less sure of its ends.
        size: (H, W), static.
        softness: how far, in pixels, outlines blur. Gradients reach a few times as far: raise it where the
            shapes to be matched may be further apart than a line is wide.
        at_once: frames drawn together; more where they are split over devices.
    Returns:
        [B,F,H,W,3] in [0,1], of the keypoints' dtype.
    """
    batch, frames = keypoints.shape[:2]
    total = batch * frames
    slices = next(count for count in range(1, total + 1) if total % count == 0 and total // count <= at_once)
    draw_frames = jax.vmap(jax.checkpoint(functools.partial(_draw_frame, size=size, softness=softness)))
    flat = (keypoints.reshape(-1, sk.J, 2).astype(jnp.float32), confidence.reshape(-1, sk.J).astype(jnp.float32))
    if slices == 1:
        maps = draw_frames(*flat)
    else:
        # Every slices-th frame makes a slice: one after another would be some devices' frames only, sent to all the others.
        flat = jax.tree.map(lambda x: rearrange(x, "(n slices) ... -> slices n ...", slices=slices), flat)
        maps = rearrange(jax.lax.map(lambda poses: draw_frames(*poses), flat), "slices n ... -> (n slices) ...")
    return maps.reshape(batch, frames, *size, 3).astype(keypoints.dtype)


def _draw_frame(points: jax.Array, confidence: jax.Array, size: tuple[int, int], softness: float) -> jax.Array:
    """One pose [J,2] with [J] -> [H,W,3]."""
    widths = sk.strokes(size)
    rows, columns = jnp.arange(size[0]) + 0.5, jnp.arange(size[1]) + 0.5
    falloff = 2 * float(np.log(2)) * softness  # half covered on the outline, with a slope of 1 / (4 softness)
    gate = jax.nn.log_sigmoid((confidence - sk.THRESHOLD) / GATE)

    def ink(distance, pairs):
        shown = jnp.minimum(gate[pairs[:, 0]], gate[pairs[:, 1]])[:, None, None]
        return _density(-distance / falloff, MAX_LOG_DENSITY, shown)

    def dots(part, radius, axes="nhw"):
        # A Gaussian factors into its axes; its width gives it the value and the slope of `ink` at the radius.
        spread, peak = 2 * radius * falloff, radius / (2 * falloff)
        across = jnp.exp(-jnp.square(columns - points[part, 0, None]) / spread)
        down = jnp.exp(-jnp.square(rows - points[part, 1, None]) / spread)
        return jnp.einsum(f"nh,nw->{axes}", down * _density(peak, peak, gate[part])[:, None], across)

    start, end = points[sk.LIMBS[:, 0]], points[sk.LIMBS[:, 1]]
    layers = [ink(_ellipse_distance(rows, columns, start, end, widths.limb), sk.LIMBS), dots(sk.BODY, widths.joint)]
    for hand in (sk.LEFT_HAND, sk.RIGHT_HAND):
        pairs = sk.HAND_LIMBS + hand.start
        distance = _segment_distance(rows, columns, points[pairs[:, 0]], points[pairs[:, 1]])
        layers += [ink(distance - widths.hand_line, pairs), dots(hand, widths.hand_joint, "hw")[None]]
    layers.append(dots(sk.FACE, widths.face_dot, "hw")[None])
    return _composite(jnp.concatenate(layers), jnp.asarray(LAYER_COLOURS))


def _composite(density: jax.Array, colours: jax.Array) -> jax.Array:
    """Back to front: density [N,H,W] and colours [N,3] -> [H,W,3] on black."""
    # Layer n shows through[n+1] - through[n], where through[n] is the light that passes layers n, n+1, ...: summed by parts.
    through = jnp.exp(-jnp.einsum("mn,nhw->mhw", np.triu(np.ones((len(colours),) * 2, np.float32)), density))
    behind = jnp.concatenate([jnp.zeros_like(colours[:1]), colours[:-1]])
    return colours[-1] + jnp.einsum("nhw,nc->hwc", through, behind - colours)


def _density(log_density: jax.Array | float, most: float, gate: jax.Array) -> jax.Array:
    """ln 2 at log density 0; `gate`, a log of 0..1, is raised to a power so that it hides even the densest ink."""
    return jnp.log(2) * jnp.exp(jnp.minimum(log_density, most) + (1 + most) * gate)


def _offsets(rows: jax.Array, columns: jax.Array, origin: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pixels seen from origin [N,2]: components along and across the unit direction [N,2], each [N,H,W]."""
    x, y = columns - origin[:, 0, None], rows - origin[:, 1, None]
    dx, dy = direction[:, 0, None], direction[:, 1, None]
    along = (x * dx)[:, None, :] + (y * dy)[:, :, None]
    across = (y * dx)[:, :, None] - (x * dy)[:, None, :]
    return along, across


def _norm(vectors: jax.Array) -> jax.Array:
    """Length over the last axis, kept, with a finite gradient at zero."""
    return jnp.sqrt(jnp.square(vectors).sum(-1, keepdims=True) + 1e-8)


def _segment_distance(rows: jax.Array, columns: jax.Array, start: jax.Array, end: jax.Array) -> jax.Array:
    """[N,H,W] distances of the pixels to the segments start-end, [N,2] each."""
    length = _norm(end - start)
    along, across = _offsets(rows, columns, start, (end - start) / length)
    beyond = along - jnp.clip(along, 0, length[:, :, None])
    return jnp.sqrt(jnp.square(beyond) + jnp.square(across) + 1e-8)


def _ellipse_distance(rows: jax.Array, columns: jax.Array, start: jax.Array, end: jax.Array, half_width: float) -> jax.Array:
    """[N,H,W] signed distances, to first order, to the ellipses that have start and end as vertices."""
    length = _norm(end - start)
    along, across = _offsets(rows, columns, (start + end) / 2, (end - start) / length)
    half_length = jnp.maximum(length / 2, 0.1)[:, :, None]
    u, v = jnp.square(along / half_length), (across / half_width) ** 2
    level = jnp.sqrt(u + v + 1e-8)
    return (level - 1) * level / jnp.sqrt(u / half_length**2 + v / half_width**2 + 1e-8)
