"""M2P: music and the photo's person -> 134 keypoints a frame, their confidence, and a face embedding.

Music is standardised, projected (LayerNorm, 2048 GELU, 1024) and passes self-attention; the trunk then reads it together
with tokens of the reference pose and face. The pose head classifies each coordinate of each joint over bins (SimCC, Li et
al. 2022) and returns the expected position, so every joint has a spatial axis of its own. The face head is a residual on
the reference embedding: music says nothing about identity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from champ_jax.errors import UserError
from champ_jax.models.m2p_statistics import MAX_MUSIC, Statistics
from champ_jax.nn.attention import join_heads, rotate, split_heads
from champ_jax.nn.kernels import attend
from champ_jax.nn.layers import layer_norm, linear
from champ_jax.nn.policy import Policy
from champ_jax.pose import normalise as norm
from champ_jax.pose import skeleton as sk

MAX_FACE_STEP = 0.3

Outputs = dict[str, jax.Array]
Batch = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class M2PConfig:
    """Geometry of M2P; the defaults are full size.

    Attributes:
      music_dim: Dm, numbers a frame of music (192 rich192, 4800 stack4800, 35 fact35).
      width, layers, heads, ff: the trunk.
      projection: hidden width of the music projection.
      music_layers: self-attention layers over music alone.
      pose_tokens: tokens that the reference pose becomes.
      joint_dim: width of a joint's query.
      bins_x, bins_y: bins a coordinate.
      bin_range: bins cover the mean pose plus and minus so many standard deviations.
      face_dim: E of the face embedding.
      dropout: on the projection and on every residual branch.
    """

    music_dim: int = 4800
    width: int = 1024
    layers: int = 6
    heads: int = 8
    ff: int = 4096
    projection: int = 2048
    music_layers: int = 2
    pose_tokens: int = 4
    joint_dim: int = 32
    bins_x: int = 256
    bins_y: int = 256
    bin_range: float = 5.0
    face_dim: int = 512
    dropout: float = 0.1

    def __post_init__(self):
        if self.width % (2 * self.heads):
            raise UserError(f"m2p.width {self.width} must divide into {self.heads} heads of even size.")


class Block(nnx.Module):
    """A pre-norm transformer layer with rotary positions."""

    def __init__(self, config: M2PConfig, rngs: nnx.Rngs, policy: Policy):
        width = config.width
        self.heads, self.dropout = config.heads, config.dropout
        self.norm_1, self.norm_2 = layer_norm(width, rngs, policy), layer_norm(width, rngs, policy)
        self.to_q, self.to_k, self.to_v = (linear(width, width, rngs, policy) for _ in range(3))
        self.to_out = linear(width, width, rngs, policy)
        self.ff_1, self.ff_2 = linear(width, config.ff, rngs, policy), linear(config.ff, width, rngs, policy)

    def __call__(self, x: jax.Array, positions: jax.Array, key: jax.Array | None) -> jax.Array:
        """x [B,N,D] with positions [N] in frames; key None is without dropout -> [B,N,D]."""
        keys = (None, None) if key is None else jax.random.split(key)
        h = self.norm_1(x)
        q, k, v = (split_heads(project(h), self.heads) for project in (self.to_q, self.to_k, self.to_v))
        attended = join_heads(attend(rotate(q, positions), rotate(k, positions), v))
        x = x + dropout(self.to_out(attended), self.dropout, keys[0])
        return x + dropout(self.ff_2(jax.nn.gelu(self.ff_1(self.norm_2(x)))), self.dropout, keys[1])


class M2P(nnx.Module):
    """The network. Call it on music and a reference; `predict` does so from a batch."""

    def __init__(self, config: M2PConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        self.config = config
        width = config.width
        self.statistics = Statistics(config.music_dim)
        self.music_norm = layer_norm(config.music_dim, rngs, policy)
        self.music_1 = linear(config.music_dim, config.projection, rngs, policy)
        self.music_2 = linear(config.projection, width, rngs, policy)
        self.pose_1 = linear(3 * sk.J + sk.FEET.stop, width, rngs, policy)
        self.pose_2 = linear(width, config.pose_tokens * width, rngs, policy)
        self.face_token = linear(config.face_dim, width, rngs, policy)
        for i in range(config.music_layers):
            setattr(self, f"music_layer_{i}", Block(config, rngs, policy))
        for i in range(config.layers):
            setattr(self, f"layer_{i}", Block(config, rngs, policy))
        self.out_norm = layer_norm(width, rngs, policy)
        self.head = PoseHead(config, rngs, policy)
        self.contact = linear(width, len(sk.CONTACT_JOINTS), rngs, policy)
        self.face = linear(width, config.face_dim, rngs, policy)
        self.face_scale = nnx.Param(jnp.zeros((1,), policy.param))

    def __call__(
        self,
        music: jax.Array,
        reference_keypoints: jax.Array,
        reference_confidence: jax.Array,
        reference_face: jax.Array,
        key: jax.Array | None = None,
    ) -> Outputs:
        """One window of dance.

        Args:
          music: [B,F,Dm] features.
          reference_keypoints: [B,J,2] the photo's pose in its own torso units (`normalise.to_torso`).
          reference_confidence: [B,J] 0..1; joints below 0.3 are not looked at.
          reference_face: [B,E] unit embedding of the photo's face, zeros for none.
          key: switches dropout on.

        Returns:
          Float32 arrays: keypoints [B,F,J,2] torso units of the reference; local [B,F,J,2] and root [B,F,2], which
          compose them; confidence [B,F,J] logits; logits_x [B,F,J,Bx], logits_y [B,F,J,By] over bins_x [Bx], bins_y [By], the
          bins' centres in standard deviations from the mean pose, pose_mean and pose_std [J,2];
          contact [B,F,4] logits of `skeleton.CONTACT_JOINTS`; face [B,F,E] unit embeddings.

        Raises:
          UserError: the music's or the face's width is not the configuration's.
        """
        self._check(music, reference_face)
        frames, config = music.shape[1], self.config
        keys = [None] * (1 + config.music_layers + config.layers)
        keys = keys if key is None else list(jax.random.split(key, len(keys)))
        time = jnp.arange(frames, dtype=jnp.float32)
        x = jax.nn.gelu(self.music_1(self.music_norm(self.statistics.music(music))))
        x = self.music_2(dropout(x, config.dropout, keys.pop()))
        for i in range(config.music_layers):
            x = getattr(self, f"music_layer_{i}")(x, time, keys.pop())
        tokens = self._reference_tokens(reference_keypoints, reference_confidence, reference_face)
        # The reference stands at time 0 for every frame: it is where the dance starts.
        positions = jnp.concatenate([jnp.zeros(tokens.shape[1]), time])
        x = jnp.concatenate([tokens.astype(x.dtype), x], axis=1)
        for i in range(config.layers):
            x = getattr(self, f"layer_{i}")(x, positions, keys.pop())
        x = self.out_norm(x[:, tokens.shape[1] :])
        mean, std = self.statistics.pose()
        return {
            **self.head(x, mean, std),
            "contact": self.contact(x).astype(jnp.float32),
            "face": self._face(x, reference_face),
            "pose_mean": mean,
            "pose_std": std,
        }

    def _check(self, music, face):
        for name, array, width in (("music", music, self.config.music_dim), ("face", face, self.config.face_dim)):
            if array.shape[-1] != width:
                raise UserError(
                    f"M2P: {name} features have {array.shape[-1]} numbers, this model reads {width}; "
                    f"use the {name} features it was trained with."
                )

    def _reference_tokens(self, keypoints, confidence, face) -> jax.Array:
        """[B,N,D]: the held pose, the confidences and the lengths of the 24 bones; then the face."""
        mean, std = self.statistics.pose()
        local, _ = norm.split(keypoints[:, None], confidence[:, None])
        seen = confidence >= sk.THRESHOLD
        pose = jnp.where(seen[..., None], jnp.clip((local[:, 0] - mean) / std, -MAX_MUSIC, MAX_MUSIC), 0.0)
        shown = sk.bone_confidence(confidence, jnp) >= sk.THRESHOLD
        lengths = jnp.where(shown, jnp.linalg.norm(sk.bones(keypoints, jnp), axis=-1), 0.0)
        parts = [pose.reshape(pose.shape[0], -1), jnp.where(seen, confidence, 0.0), lengths]
        hidden = jax.nn.gelu(self.pose_1(jnp.concatenate(parts, axis=-1)))
        tokens = self.pose_2(hidden).reshape(hidden.shape[0], self.config.pose_tokens, -1)
        return jnp.concatenate([tokens, self.face_token(face)[:, None]], axis=1)

    def _face(self, x, reference) -> jax.Array:
        """Embeddings [B,F,E]: the reference and a bounded step, which starts at nothing."""
        step = self.face(x).astype(jnp.float32)
        length = jnp.sqrt(jnp.square(step).sum(-1, keepdims=True) + 1e-12)
        step = step * jnp.minimum(1.0, MAX_FACE_STEP / length) * self.face_scale[...].astype(jnp.float32)
        moved = reference.astype(jnp.float32)[:, None] + step
        return moved / jnp.sqrt(jnp.maximum(jnp.square(moved).sum(-1, keepdims=True), 1e-12))


class PoseHead(nnx.Module):
    """Frames [B,F,D] to keypoints. Body and feet come first; face and hands then also see the body that was predicted."""

    def __init__(self, config: M2PConfig, rngs: nnx.Rngs, policy: Policy):
        self.bins, self.bin_range, self.joint_dim = (config.bins_x, config.bins_y), config.bin_range, config.joint_dim
        coarse = sk.FEET.stop
        self.body_queries = linear(config.width, coarse * config.joint_dim, rngs, policy)
        self.fine_queries = linear(config.width, (sk.J - coarse) * config.joint_dim, rngs, policy)
        self.body_to_fine = linear(2 * coarse, config.width, rngs, policy)
        for part in sk.PARTS:
            setattr(self, f"{part}_x", linear(config.joint_dim, config.bins_x, rngs, policy))
            setattr(self, f"{part}_y", linear(config.joint_dim, config.bins_y, rngs, policy))
        self.root = linear(config.width, 2, rngs, policy, zero=True)
        self.confidence = linear(config.width, sk.J, rngs, policy)

    def __call__(self, x: jax.Array, mean: jax.Array, std: jax.Array) -> Outputs:
        """x [B,F,D]; mean, std [J,2] of part-relative coordinates. See `M2P.__call__` for the results."""
        centres = [bin_centres(count, self.bin_range) for count in self.bins]
        parts = list(sk.PARTS.items())
        body_logits = self._logits(self.body_queries(x), parts[:2])
        body = jnp.stack([soft_argmax(logits, c) for logits, c in zip(body_logits, centres)], -1)
        # Fine parts follow the body and must not bend it to their own ends.
        seen_body = jax.lax.stop_gradient(body).reshape(*x.shape[:2], -1).astype(x.dtype)
        fine_logits = self._logits(self.fine_queries(x + self.body_to_fine(seen_body)), parts[2:])
        fine = jnp.stack([soft_argmax(logits, c) for logits, c in zip(fine_logits, centres)], -1)
        local = jnp.concatenate([body, fine], axis=-2) * std + mean
        root = self.root(x).astype(jnp.float32)
        logits_x, logits_y = (jnp.concatenate(pair, axis=-2) for pair in zip(body_logits, fine_logits))
        return {
            "keypoints": norm.compose(local, root),
            "local": local,
            "root": root,
            "confidence": self.confidence(x).astype(jnp.float32),
            "logits_x": logits_x,
            "logits_y": logits_y,
            "bins_x": centres[0],
            "bins_y": centres[1],
        }

    def _logits(self, queries: jax.Array, parts: list[tuple[str, slice]]) -> tuple[jax.Array, jax.Array]:
        """Queries [B,F,n*joint_dim] of consecutive parts -> logits over the bins of x and of y, [B,F,n,bins]."""
        queries = rearrange(queries, "b f (n d) -> b f n d", d=self.joint_dim)
        first = parts[0][1].start
        slices = [(part, queries[:, :, joints.start - first : joints.stop - first]) for part, joints in parts]
        along = lambda axis: jnp.concatenate([getattr(self, f"{part}_{axis}")(q) for part, q in slices], axis=2)  # noqa: E731
        return along("x"), along("y")


def bin_centres(count: int, reach: float) -> jax.Array:
    """Centres of `count` equal bins over -reach..reach, [count]."""
    return jnp.asarray(((np.arange(count) + 0.5) / count * 2 - 1) * reach, jnp.float32)


def soft_argmax(logits: jax.Array, centres: jax.Array) -> jax.Array:
    """Expected bin centre under softmax(logits [...,bins]): [...], float32. A one-hot distribution gives its centre."""
    return jnp.einsum("...b,b->...", jax.nn.softmax(logits.astype(jnp.float32), axis=-1), centres)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """x [...] with a share `rate` of its numbers zeroed and the rest scaled up; x itself without a key."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


def predict(m2p: M2P, batch: Batch, key: jax.Array | None = None) -> Outputs:
    """Runs M2P on the music [B,F,Dm], reference pose [B,J,2] px and reference face [B,E] of a batch; key: dropout."""
    confidence = batch["reference_confidence"]
    info = norm.anchor(batch["reference_keypoints"], confidence)
    reference = norm.to_torso(batch["reference_keypoints"][:, None], info)[:, 0]
    return m2p(batch["music"], reference, confidence, batch["reference_face"], key)


def to_pixels(outputs: Mapping[str, jax.Array], reference: Batch | norm.NormInfo) -> tuple[jax.Array, jax.Array]:
    """M2P's outputs as what is drawn: (keypoints [B,F,J,2] pixels, confidence [B,F,J] 0..1); differentiable.

    reference: the NormInfo of the photo's pose, or a batch with reference_keypoints [B,J,2] px and reference_confidence [B,J].
    """
    if not isinstance(reference, norm.NormInfo):
        reference = norm.anchor(reference["reference_keypoints"], reference["reference_confidence"])
    return norm.denormalise(outputs["keypoints"], reference), jax.nn.sigmoid(outputs["confidence"])
