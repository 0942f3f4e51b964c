"""Means and deviations of M2P's training data: the module that holds them, and how they are measured, on the host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from champ_jax.pose import normalise as norm
from champ_jax.pose import skeleton as sk

MAX_MUSIC = 8.0  # standard deviations; a few feature dimensions have rare, huge values
_DEFAULT_STD = {"body": 0.65, "feet": 0.65, "face": 0.4, "left_hand": 0.45, "right_hand": 0.45}


class Statistics(nnx.Module):
    """Means and deviations of the training data, as vectors: they receive no gradient, and vectors are not decayed.

    music_mean, music_std: [Dm]. pose_mean, pose_std: [2 J], part-relative coordinates as of `normalise.split`.
    """

    def __init__(self, music_dim: int):
        spread = np.zeros((sk.J, 2), np.float32)
        for part, joints in sk.PARTS.items():
            spread[joints] = _DEFAULT_STD[part]
        self.music_mean = nnx.Param(jnp.zeros(music_dim))
        self.music_std = nnx.Param(jnp.ones(music_dim))
        self.pose_mean = nnx.Param(jnp.zeros(2 * sk.J))
        self.pose_std = nnx.Param(jnp.asarray(spread.reshape(-1)))

    def music(self, music: jax.Array) -> jax.Array:
        """Standardised music [B,F,Dm], float32, clipped."""
        mean, std = (jax.lax.stop_gradient(x[...].astype(jnp.float32)) for x in (self.music_mean, self.music_std))
        return jnp.clip((music.astype(jnp.float32) - mean) / jnp.maximum(std, 1e-4), -MAX_MUSIC, MAX_MUSIC)

    def pose(self) -> tuple[jax.Array, jax.Array]:
        """Mean and standard deviation of every joint, [J,2] each, float32."""
        mean, std = (jax.lax.stop_gradient(x[...].astype(jnp.float32)) for x in (self.pose_mean, self.pose_std))
        return mean.reshape(sk.J, 2), std.reshape(sk.J, 2)


def measure_statistics(batches: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Means and deviations of training batches for `with_statistics`: music [Dm], pose [2 J], keys as in `Statistics`.

    A joint that hardly moves gets a quarter of its part's median deviation, so that it does not explode when divided by.
    """
    music, pose = _Moments(), _Moments()
    for batch in batches:
        weight = np.asarray(batch["music_mask"])[:, None, None] * np.ones(batch["music"].shape[:2])[..., None]
        music.add(np.asarray(batch["music"]), weight)
        keypoints, _ = norm.normalise(*(jnp.asarray(batch[name]) for name in (
            "keypoints", "confidence", "reference_keypoints", "reference_confidence")))  # fmt: skip
        local, _ = norm.split(keypoints, jnp.asarray(batch["confidence"]))
        pose.add(np.asarray(local), (np.asarray(batch["confidence"]) >= sk.THRESHOLD)[..., None])
    std = pose.std()
    for joints in sk.PARTS.values():
        std[joints] = np.maximum(std[joints], max(0.25 * float(np.median(std[joints])), 1e-2))
    flat = {"music_mean": music.mean(), "music_std": music.std(), "pose_mean": pose.mean(), "pose_std": std}
    return {name: value.reshape(-1).astype(np.float32) for name, value in flat.items()}


def with_statistics(params: dict[str, Any], statistics: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """M2P's parameters (a nested dict) with measured statistics, of the same shapes, in place of the neutral ones."""
    own = {name: jnp.asarray(statistics[name], value.dtype) for name, value in params["statistics"].items()}
    return {**params, "statistics": own}


class _Moments:
    """Weighted mean and deviation over all but the last axes that vary with the data."""

    def __init__(self):
        self.weight = self.total = self.square = 0.0

    def add(self, values: np.ndarray, weight: np.ndarray) -> None:
        """values [B,F,...] with weights that broadcast to them."""
        values, weight = values.astype(np.float64), np.broadcast_to(weight, values.shape).astype(np.float64)
        values = np.where(weight > 0, values, 0)
        self.weight += weight.sum((0, 1))
        self.total += (weight * values).sum((0, 1))
        self.square += (weight * values**2).sum((0, 1))

    def mean(self) -> np.ndarray:
        return self.total / np.maximum(self.weight, 1e-9)

    def std(self) -> np.ndarray:
        return np.sqrt(np.maximum(self.square / np.maximum(self.weight, 1e-9) - self.mean() ** 2, 0))
