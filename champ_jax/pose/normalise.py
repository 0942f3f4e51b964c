"""Poses in torso units: what M2P reads and predicts, at any image size, body size and place in the frame.

`keypoints [...,J,2] px -> torso units` is one shift and one isotropic scale a clip, taken from the reference pose: the middle of
the reference's hips is (0, 0) and its torso (neck to middle of the hips) has length 1; y points down. Dividing x and y by
the same number keeps bone lengths; the frame's own size cancels out, so none is needed.

Inside torso units, `split` separates where the person is (root) from how each part is held: body and feet relative to the root,
hands to their wrist, the face to the nose, the latter two in 0.35 torsos. `compose` undoes it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from champ_jax.pose import skeleton as sk

FINE_SCALE = 0.35  # torsos; the unit of hands and face, which makes their spread comparable to the body's
SHOULDERS_PER_TORSO = 0.7  # a typical shoulder width, for photos that end above the hips
MIN_TORSO = 0.1  # of the visible body's height: a torso seen from its end must not blow up everything else
MAX_GAP = 8  # frames that may be filled in by interpolation


class NormInfo(NamedTuple):
    """The frame of torso units in pixels: `root` [...,2], the middle of the reference's hips; `torso` [...], its length."""

    root: jax.Array
    torso: jax.Array


def anchor(reference_keypoints: jax.Array, reference_confidence: jax.Array) -> NormInfo:
    """The torso units of a reference pose [...,J,2] px with confidence [...,J].

    Hidden hips are put one torso below the neck, and a torso is then estimated from the shoulders.
    """
    points, seen = reference_keypoints, reference_confidence >= sk.THRESHOLD
    hips = sk.hips(points)
    neck = points[..., sk.NECK, :]
    complete = seen[..., sk.RIGHT_HIP] & seen[..., sk.LEFT_HIP] & seen[..., sk.NECK]
    shoulders = jnp.linalg.norm(points[..., sk.RIGHT_SHOULDER, :] - points[..., sk.LEFT_SHOULDER, :], axis=-1)
    shoulders = jnp.where(seen[..., sk.RIGHT_SHOULDER] & seen[..., sk.LEFT_SHOULDER], shoulders, 0.0)
    torso = jnp.where(complete, jnp.linalg.norm(hips - neck, axis=-1), shoulders / SHOULDERS_PER_TORSO)
    height = points[..., sk.BODY, 1]
    top = jnp.where(seen[..., sk.BODY], height, jnp.inf).min(-1)
    bottom = jnp.where(seen[..., sk.BODY], height, -jnp.inf).max(-1)
    floor = jnp.where(bottom > top, MIN_TORSO * (bottom - top), 1.0)
    torso = jnp.maximum(torso, jnp.maximum(floor, 1.0))
    down = jnp.stack([jnp.zeros_like(torso), torso], -1)
    return NormInfo(jnp.where(complete[..., None], hips, neck + down), torso)


def to_torso(keypoints: jax.Array, info: NormInfo) -> jax.Array:
    """Pixels [...,F,J,2] to torso units, nothing filled in."""
    return (keypoints - info.root[..., None, None, :]) / info.torso[..., None, None, None]


def denormalise(keypoints: jax.Array, info: NormInfo) -> jax.Array:
    """Torso units [...,F,J,2] back to pixels of the frame that the reference was given in."""
    return keypoints * info.torso[..., None, None, None] + info.root[..., None, None, :]


def normalise(
    keypoints: jax.Array, confidence: jax.Array, reference_keypoints: jax.Array, reference_confidence: jax.Array
) -> tuple[jax.Array, NormInfo]:
    """A clip in torso units, with short gaps of hidden joints filled in (see `impute`).

    Args:
        keypoints: [...,F,J,2] f32 pixels.
        confidence: [...,F,J] 0..1; losses mask what is below 0.3 whatever stands there.
        reference_keypoints: [...,J,2] f32 pixels, the pose of the photo.
        reference_confidence: [...,J].
    Returns:
        ([...,F,J,2] torso units, NormInfo). `denormalise` undoes it to rounding for visible joints.
    """
    info = anchor(reference_keypoints, reference_confidence)
    return impute(to_torso(keypoints, info), confidence), info


def impute(keypoints: jax.Array, confidence: jax.Array) -> jax.Array:
    """Fills joints below confidence 0.3 from the frames around them.

    Gaps of at most MAX_GAP frames are interpolated linearly, frames before the first and after the last sighting within that reach hold
    it; anything longer is left as it is.

    Args:
        keypoints: [...,F,J,2]; confidence: [...,F,J].
    Returns:
        [...,F,J,2].
    """
    seen = confidence >= sk.THRESHOLD
    time = jnp.arange(keypoints.shape[-3])[:, None]
    far = 10**6
    before = jax.lax.cummax(jnp.where(seen, time, -far), axis=seen.ndim - 2)
    after = jax.lax.cummin(jnp.where(seen, time, far), axis=seen.ndim - 2, reverse=True)
    has_before, has_after = before >= 0, after < far
    left, right = jnp.where(has_before, before, after), jnp.where(has_after, after, before)
    take = lambda index: jnp.take_along_axis(keypoints, jnp.clip(index, 0, time.shape[0] - 1)[..., None], axis=-3)  # noqa: E731
    share = ((time - left) / jnp.maximum(right - left, 1))[..., None]
    filled = take(left) * (1 - share) + take(right) * share
    inside = has_before & has_after & (after - before - 1 <= MAX_GAP)
    edge = (has_before ^ has_after) & (jnp.abs(time - jnp.where(has_before, before, after)) <= MAX_GAP)
    return jnp.where((~seen & (inside | edge))[..., None], filled, keypoints)


def roots(keypoints: jax.Array, confidence: jax.Array | None = None) -> jax.Array:
    """The middle of the hips of each frame, [...,F,2].

    Where a hip is hidden: the neck plus the last offset from neck to hips that was seen, the first one at the start of a clip,
    and one torso downwards where none was ever seen. Keypoints [...,F,J,2] in torso units; confidence [...,F,J],
    None when all joints count as seen.
    """
    hips = sk.hips(keypoints)
    if confidence is None:
        return hips
    neck = keypoints[..., sk.NECK, :]
    good = (confidence[..., [sk.RIGHT_HIP, sk.LEFT_HIP]] >= sk.THRESHOLD).all(-1)
    usable = good & (confidence[..., sk.NECK] >= sk.THRESHOLD)
    last = jax.lax.cummax(jnp.where(usable, jnp.arange(good.shape[-1]), -1), axis=good.ndim - 1)
    first = jnp.argmax(usable, axis=-1)[..., None]
    index = jnp.where(last >= 0, last, first)[..., None]
    offset = jnp.take_along_axis(hips - neck, index, axis=-2)
    offset = jnp.where(usable.any(-1)[..., None, None], offset, jnp.array([0.0, 1.0]))
    return jnp.where(good[..., None], hips, neck + offset)


def split(keypoints: jax.Array, confidence: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Torso units [...,F,J,2] -> (part-relative coordinates [...,F,J,2], root [...,F,2]); see `roots` for confidence."""
    root = roots(keypoints, confidence)
    relative = lambda part, centre: (keypoints[..., sk.PARTS[part], :] - keypoints[..., centre, None, :]) / FINE_SCALE  # noqa: E731
    body_and_feet = keypoints[..., : sk.FEET.stop, :] - root[..., None, :]
    fine = [relative(part, centre) for part, centre in sk.CENTRES.items()]
    return jnp.concatenate([body_and_feet, *fine], axis=-2), root


def compose(local: jax.Array, root: jax.Array) -> jax.Array:
    """Inverse of `split`: part-relative [...,F,J,2] and root [...,F,2] -> torso units [...,F,J,2]."""
    body_and_feet = local[..., : sk.FEET.stop, :] + root[..., None, :]
    fine = [body_and_feet[..., centre, None, :] + FINE_SCALE * local[..., sk.PARTS[part], :] for part, centre in sk.CENTRES.items()]
    return jnp.concatenate([body_and_feet, *fine], axis=-2)
