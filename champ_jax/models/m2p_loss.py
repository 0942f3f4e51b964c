"""Losses of M2P: every term a pure function of the network's outputs and a batch, in torso units, weighted by confidence.

Each part of the body is averaged over its own visible joints before parts are weighed, so that 68 points of a face do not outvote
18 of a body. Rates of change are in units of 1/30 s, whatever the frame rate.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from champ_jax.models.m2p import Batch, Outputs
from champ_jax.pose import normalise as norm
from champ_jax.pose import skeleton as sk

PART_WEIGHTS = {"body": 1.0, "feet": 0.75, "face": 0.3, "left_hand": 0.5, "right_hand": 0.5}
REGRESS = {
    "hm": 1.0, "pos": 1.0, "vel": 0.5, "acc": 0.1, "bone": 0.2, "foot": 0.1, "beat": 0.05, "conf": 0.1, "face": 0.5,
}  # fmt: skip
PROTOTYPE = {"hm": 1.0, "pos": 1.0, "vel": 0.1, "face": 0.2}
"""Weights of the terms: the recommended ones, and the PyTorch prototype's (heatmap, L1 and 0.1 temporal; face at a fifth)."""

HEATMAP_SIGMA = 2.0  # bins
CONTACT_SPEED = 0.6  # torsos a second; a foot below it stands
BEAT_SIGMA = 0.05  # seconds
BEAT_FLOOR = 0.05  # torsos a second

_CENTRES = np.arange(sk.J)  # the joint that another's coordinates are relative to; body and feet: itself
for _part, _centre in sk.CENTRES.items():
    _CENTRES[sk.PARTS[_part]] = _centre

Terms = dict[str, jax.Array]


def m2p_losses(outputs: Outputs, batch: Batch) -> Terms:
    """All terms of the loss, unweighted scalars; `REGRESS` and `PROTOTYPE` are weights for them.

    Args:
      outputs: what `predict` returned.
      batch: a motion batch: keypoints [B,F,J,2] px, confidence [B,F,J], reference_keypoints [B,J,2] px,
        reference_confidence [B,J], face [B,F,E], face_valid [B,F], seconds [B,F], music_mask [B]. Samples
        without music do not count.

    Returns:
      hm (cross-entropy of the bins), pos, vel, acc, bone, foot, beat, conf, face.
    """
    target, _ = norm.normalise(*(batch[k] for k in ("keypoints", "confidence", "reference_keypoints", "reference_confidence")))
    confidence, music = batch["confidence"], batch["music_mask"].astype(jnp.float32)
    weight = jnp.where(confidence >= sk.THRESHOLD, confidence, 0.0) * music[:, None, None]
    fps = frame_rate(batch["seconds"])
    predicted = outputs["keypoints"]
    return {
        "hm": heatmap_loss(outputs, target, confidence, weight),
        "pos": part_mean(charbonnier(predicted - target), weight),
        "vel": rate_loss(predicted, target, weight, fps, order=1),
        "acc": rate_loss(predicted, target, weight, fps, order=2),
        "bone": bone_loss(predicted, target, weight),
        "foot": foot_loss(predicted, outputs["contact"], target, weight, fps),
        "beat": beat_loss(predicted, target, weight, fps),
        "conf": part_mean(optax.sigmoid_binary_cross_entropy(outputs["confidence"], confidence), _everywhere(weight, music)),
        "face": face_loss(outputs["face"], batch["face"], batch["face_valid"] * music[:, None]),
    }


def heatmap_loss(outputs: Outputs, target: jax.Array, confidence: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean cross-entropy over x and y between the bins' softmax and a Gaussian (2 bins wide) at the true place.

    target [B,F,J,2] torso units. Hands and faces count where the wrist or nose they hang on is seen too.
    """
    local, _ = norm.split(target, confidence)
    standard = (local - outputs["pose_mean"]) / outputs["pose_std"]
    weight = weight * (weight[..., _CENTRES] > 0)
    losses = []
    for axis, name in enumerate("xy"):
        centres, logits = outputs[f"bins_{name}"], outputs[f"logits_{name}"].astype(jnp.float32)
        width = centres[1] - centres[0]
        place = jnp.clip(standard[..., axis], centres[0], centres[-1])
        truth = jax.nn.softmax(-0.5 * jnp.square((centres - place[..., None]) / (HEATMAP_SIGMA * width)), axis=-1)
        losses.append(jax.nn.logsumexp(logits, axis=-1) - (truth * logits).sum(-1))
    return part_mean(0.5 * (losses[0] + losses[1]), weight)


def rate_loss(predicted: jax.Array, target: jax.Array, weight: jax.Array, fps: jax.Array, order: int) -> jax.Array:
    """L1 of velocities (order 1) or accelerations (order 2) of [B,F,J,2], in torsos per 1/30 s."""
    error = jnp.abs(jnp.diff(predicted - target, n=order, axis=1)).sum(-1)
    return part_mean(error * (fps / 30)[:, None, None] ** order, _all_seen(weight, order))


def bone_loss(predicted: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """Error of the 24 bones' lengths, and a push against bones longer than the clip ever shows: [B,F,J,2], weight [B,F,J].

    The push is one-sided, because a bone that points at the camera is rightly short.
    """
    shown = sk.bone_confidence(weight, jnp)
    length, true_length = (_length(sk.bones(keypoints, jnp)) for keypoints in (predicted, target))
    seen_lengths = jnp.where(shown > 0, true_length, jnp.nan)
    longest = jnp.nan_to_num(jnp.nanquantile(seen_lengths, 0.95, axis=1, keepdims=True), nan=jnp.inf)
    excess = jnp.square(jax.nn.relu(length - 1.1 * longest))
    return _mean(jnp.abs(length - true_length) + 0.1 * excess, shown)


def foot_loss(predicted: jax.Array, contact: jax.Array, target: jax.Array, weight: jax.Array, fps: jax.Array) -> jax.Array:
    """Feet that the network itself calls standing must not move (EDGE); plus the cross-entropy of that call.

    Keypoints [B,F,J,2], contact [B,F,4] logits, weight [B,F,J], fps [B].
    """
    feet = list(sk.CONTACT_JOINTS)
    seen = _all_seen(weight[..., feet], 1)
    speed = _length(jnp.diff(target[..., feet, :], axis=1)) * fps[:, None, None]
    calls = optax.sigmoid_binary_cross_entropy(contact[:, 1:], (speed < CONTACT_SPEED).astype(jnp.float32))
    standing = jax.lax.stop_gradient(jax.nn.sigmoid(contact[:, 1:]) > 0.95)
    sliding = _length(jnp.diff(predicted[..., feet, :], axis=1)) * (fps / 30)[:, None, None] * standing
    return _mean(calls + sliding, seen)


def beat_loss(predicted: jax.Array, target: jax.Array, weight: jax.Array, fps: jax.Array) -> jax.Array:
    """Distance of the logarithms of the smoothed energy curves: stops and accents at the same time, at the same strength.

    Keypoints [B,F,J,2], weight [B,F,J], fps [B]. A single frame has no energy.
    """
    if predicted.shape[1] < 2:
        return jnp.zeros(())
    joints = slice(0, sk.FEET.stop)
    seen = _all_seen(weight[..., joints], 1)

    def energy(keypoints):
        speed = _length(jnp.diff(keypoints[..., joints, :], axis=1)) * fps[:, None, None]
        return _smooth((speed * seen).sum(-1) / jnp.maximum(seen.sum(-1), 1e-6), BEAT_SIGMA * fps)

    apart = jnp.log(energy(predicted) + BEAT_FLOOR) - jnp.log(energy(target) + BEAT_FLOOR)
    return _mean(jnp.abs(apart), (seen.sum(-1) > 0).astype(jnp.float32))


def face_loss(predicted: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """1 - cosine of unit embeddings [B,F,E] where valid [B,F], plus 0.1 of the squared change from frame to frame."""
    change = jnp.square(jnp.diff(predicted, axis=1)).sum(-1)
    return _mean(1 - (predicted * target).sum(-1), valid) + 0.1 * _mean(change, jnp.ones_like(change))


def part_mean(error: jax.Array, weight: jax.Array) -> jax.Array:
    """Weighted mean of error [B,F,J] inside each part, then over the parts that are seen at all by `PART_WEIGHTS`."""
    total = parts = 0.0
    for part, joints in sk.PARTS.items():
        share = weight[..., joints].sum()
        present = PART_WEIGHTS[part] * (share > 0)
        total += present * (error[..., joints] * weight[..., joints]).sum() / jnp.maximum(share, 1e-6)
        parts += present
    return total / jnp.maximum(parts, 1e-6)


def charbonnier(error: jax.Array) -> jax.Array:
    """Smooth length of vectors [...,2]: sqrt(|e|^2 + 1e-6)."""
    return jnp.sqrt(jnp.square(error).sum(-1) + 1e-6)


def frame_rate(seconds: jax.Array) -> jax.Array:
    """Frames a second [B] of frame times [B,F]; 30 for a single frame, which has no rate."""
    frames = seconds.shape[1]
    if frames == 1:
        return jnp.full(seconds.shape[0], 30.0)
    return (frames - 1) / jnp.maximum(seconds[:, -1] - seconds[:, 0], 1e-3)


def _length(vectors: jax.Array) -> jax.Array:
    """Length over the last axis, with a finite gradient at zero."""
    return jnp.sqrt(jnp.square(vectors).sum(-1) + 1e-10)


def _mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    return (jnp.where(weight > 0, values, 0.0) * weight).sum() / jnp.maximum(weight.sum(), 1e-6)


def _all_seen(weight: jax.Array, order: int) -> jax.Array:
    """The least weight among the order + 1 frames that a difference is taken of: [B,F,...] -> [B,F-order,...]."""
    for _ in range(order):
        weight = jnp.minimum(weight[:, 1:], weight[:, :-1])
    return weight


def _everywhere(weight: jax.Array, music: jax.Array) -> jax.Array:
    return jnp.ones_like(weight) * music[:, None, None]


def _smooth(curves: jax.Array, sigma: jax.Array) -> jax.Array:
    """Gaussian smoothing of curves [B,F] with sigma [B] frames, edges repeated; 15 taps hold 60 frames a second."""
    taps = np.arange(-7, 8)
    kernel = jax.nn.softmax(-0.5 * jnp.square(taps / jnp.maximum(sigma[:, None], 1e-3)), axis=-1)
    padded = jnp.pad(curves, ((0, 0), (7, 7)), mode="edge")
    return sum(kernel[:, i, None] * padded[:, i : i + curves.shape[1]] for i in range(len(taps)))
