"""Softmax attention: which implementation runs on which platform is decided here and nowhere else.

Everything here is plain attention with scale 1/sqrt(d) and float32 logits and softmax. The XLA path computes each
segment of keys apart and merges the parts by their maxima and sums, as flash attention does, so that keys shared by
all the frames of a clip are never copied for each frame. Heads go before positions inside: batch dimensions that lead
make plain matrix products, on a CPU twice as fast as others.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

MAX_LOGITS = 2**26
"""Logits that a device holds at once in the XLA path (256 MiB in float32); beyond it, queries go through in chunks."""
_DEVICES = contextvars.ContextVar("devices", default=1)


@contextlib.contextmanager
def shared_by(count: int):
    """While tracing inside: arrays are split over so many devices, so each holds that much less than the shapes say."""
    token = _DEVICES.set(count)
    try:
        yield
    finally:
        _DEVICES.reset(token)


def devices() -> int:
    """Over how many devices the arrays that are being traced are split; 1 outside of `shared_by`."""
    return _DEVICES.get()


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention of q [B,N,K,d] to k, v [B,M,K,d] -> [B,N,K,d] in v's dtype."""
    if _fits_cudnn(q):
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    q, k, v = (array.swapaxes(1, 2) for array in (q, k, v))
    return _normalise(_attend_segment(q, k, v)).swapaxes(1, 2).astype(v.dtype)


def attend_with_shared(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    shared_k: jax.Array,
    shared_v: jax.Array,
    shared_mask: jax.Array | None = None,
) -> jax.Array:
    """Attention of each frame to its own keys and to keys shared by the frames of its clip, in one softmax.

    Args:
      q, k, v: [B,F,N,K,d].
      shared_k, shared_v: [B,M,K,d].
      shared_mask: [B], 0 or 1; a row with 0 attends to its own keys only, exactly. None is all ones.

    Returns:
      [B,F,N,K,d] in v's dtype.
    """
    if _fits_cudnn(q):
        return _cudnn_with_shared(q, k, v, shared_k, shared_v, shared_mask)
    q, k, v = (array.transpose(0, 3, 1, 2, 4) for array in (q, k, v))
    shared_k, shared_v = (array.swapaxes(1, 2) for array in (shared_k, shared_v))
    own = _attend_segment(q, k, v)
    batch, heads, frames, tokens, dim = q.shape
    shared = _attend_segment(q.reshape(batch, heads, frames * tokens, dim), shared_k, shared_v)
    shared = _Segment(*(array.reshape(batch, heads, frames, tokens, -1) for array in shared))
    mask = None if shared_mask is None else shared_mask[:, None, None, None, None]
    return _normalise(_merge(own, shared, mask)).transpose(0, 2, 3, 1, 4).astype(v.dtype)


class _Segment(NamedTuple):
    """Attention over one segment of keys: its value is total / weight, with both scaled by exp(-peak)."""

    total: jax.Array  # [...,N,d] float32
    weight: jax.Array  # [...,N,1] float32
    peak: jax.Array  # [...,N,1] float32


def _attend_segment(q, k, v) -> _Segment:
    """Attends from q [...,N,d] to k, v [...,M,d], chunk by chunk of N where all logits at once take too much memory."""
    *leading, queries, dim = q.shape
    chunk = _chunk_size(queries, math.prod(leading) * k.shape[-2])
    if chunk == queries:
        return _attend_at_once(q, k, v)
    chunks = jnp.moveaxis(q.reshape(*leading, queries // chunk, chunk, dim), -3, 0)
    # Without the checkpoint the backward pass would keep every chunk's logits after all.
    parts = jax.lax.map(jax.checkpoint(lambda part: _attend_at_once(part, k, v)), chunks)
    return jax.tree.map(lambda part: jnp.moveaxis(part, 0, -3).reshape(*leading, queries, -1), parts)


def _attend_at_once(q, k, v) -> _Segment:
    logits = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    peak = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    weights = jnp.exp(logits - peak)
    total = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return _Segment(total, weights.sum(axis=-1, keepdims=True), peak)


def _merge(own: _Segment, other: _Segment, mask) -> _Segment:
    """Joins two segments; rows where `mask` is 0 keep the first alone."""
    # The masked peak is replaced rather than its weight alone: exp of an unbounded difference could overflow.
    other_peak = other.peak if mask is None else jnp.where(mask > 0, other.peak, own.peak)
    peak = jnp.maximum(own.peak, other_peak)
    own_scale, other_scale = jnp.exp(own.peak - peak), jnp.exp(other_peak - peak)
    if mask is not None:
        other_scale = jnp.where(mask > 0, other_scale, 0.0)
    total = own.total * own_scale + other.total * other_scale
    return _Segment(total, own.weight * own_scale + other.weight * other_scale, peak)


def _normalise(part: _Segment) -> jax.Array:
    return part.total / part.weight


def _chunk_size(queries: int, logits_per_query: int) -> int:
    """The largest divisor of `queries` whose logits stay under MAX_LOGITS on each device."""
    fitting = max(1, min(queries, MAX_LOGITS * devices() // logits_per_query))
    return next(size for size in range(fitting, 0, -1) if queries % size == 0)


def _fits_cudnn(q: jax.Array) -> bool:
    """Whether cuDNN's fused attention runs here and takes q [...,d]: half precision, d a multiple of 8 up to 128."""
    dim = q.shape[-1]
    return jax.default_backend() == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16) and dim % 8 == 0 and dim <= 128


def _cudnn_with_shared(q, k, v, shared_k, shared_v, shared_mask):
    """cuDNN takes one list of keys a row, so the shared ones are repeated; the mask shortens the list instead."""
    batch, frames, tokens, heads, dim = q.shape
    shared = shared_k.shape[1]

    def join(own, common):
        own = own.reshape(batch * frames, tokens, heads, dim)
        return jnp.concatenate([own, jnp.repeat(common.astype(own.dtype), frames, axis=0)], axis=1)

    lengths = None
    if shared_mask is not None:
        lengths = tokens + shared * jnp.repeat((shared_mask > 0).astype(jnp.int32), frames)
    out = jax.nn.dot_product_attention(
        q.reshape(batch * frames, tokens, heads, dim),
        join(k, shared_k),
        join(v, shared_v),
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return out.reshape(q.shape)
