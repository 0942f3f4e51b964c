"""Softmax attention: which implementation runs on which platform is decided here and nowhere else.

Everything here is plain attention with scale 1/sqrt(d) and float32 logits and softmax. The XLA path computes each
segment of keys apart and merges the parts by their maxima and sums, as flash attention does, so that keys shared by
all the frames of a clip are never copied for each frame. Heads go before positions inside: batch dimensions that lead
make plain matrix products, on a CPU twice as fast as others. A CPU also works through a few heads at a time, whose
logits stay in its cache, where an accelerator would rather have them all at once.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange, repeat

MAX_LOGITS = 2**26
"""Logits that a device holds at once in the XLA path (256 MiB in float32); beyond it, queries go through in chunks."""
CPU_LOGITS = 2**21
"""The same on a CPU, 8 MiB in float32: logits that go to memory and back take five times as long as those in the cache."""
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


def attend(q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array | None = None) -> jax.Array:
    """Attention of q [B,N,K,d] to k, v [B,M,K,d] -> [B,N,K,d] in v's dtype.

    seen: with N = M, the sources that each position may see, [B,N,R] from `sources_seen`; None to keep nothing apart.
    """
    if seen is None and _fits_cudnn(q):
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    q, k, v = (array.swapaxes(1, 2) for array in (q, k, v))
    return _normalise(_attend_segment(q, k, v, None if seen is None else seen[:, None])).swapaxes(1, 2).astype(v.dtype)


def attend_with_shared(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    shared_k: jax.Array,
    shared_v: jax.Array,
    share: jax.Array | None = None,
) -> jax.Array:
    """Attention of each frame to its own keys and to keys of R sources shared by the frames of its clip, in one softmax.

    Args:
      q, k, v: [B,F,N,K,d].
      shared_k, shared_v: [B,R,M,K,d].
      share: what each source's keys count, from `shares`: [B,R] for all queries of a clip, or [B,F,N,R] for each query; a
        source with 0 is not seen, exactly, and where all are 0 a query attends to its own keys only. Shares that sum to 1
        make R copies of one source count as that source. With shares of each query, a position sees those others alone
        that may see no source beyond its own: nothing comes by way of a third. None is 1 / R for all.

    Returns:
      [B,F,N,K,d] in v's dtype.
    """
    sources = shared_k.shape[1]
    routed = share is not None and share.ndim == 4
    if sources == 1 and not routed and _fits_cudnn(q):
        return _cudnn_with_shared(q, k, v, shared_k[:, 0], shared_v[:, 0], share)
    heads_first = (rearrange(array, "b f n k d -> b k f n d") for array in (q, k, v))
    own = _attend_segment(*heads_first, sources_seen(share)[:, None] if routed else None)
    return _with_sources(own, q, shared_k, shared_v, share).astype(v.dtype)


def attend_to_shared(q: jax.Array, shared_k: jax.Array, shared_v: jax.Array, share: jax.Array | None = None) -> jax.Array:
    """As `attend_with_shared` without keys of the frames' own: q [B,F,N,K,d], shared_k and shared_v [B,R,M,K,d] -> [B,F,N,K,d].

    Queries that may see no source get 0.
    """
    batch, frames, tokens, heads, dim = q.shape
    nothing = jnp.zeros((batch, heads, frames, tokens, dim), jnp.float32)
    own = _Segment(nothing, nothing[..., :1], nothing[..., :1] - 1e30)
    return _with_sources(own, q, shared_k, shared_v, share).astype(shared_v.dtype)


def _with_sources(own: _Segment, q, shared_k, shared_v, share) -> jax.Array:
    """Joins to what queries q [B,F,N,K,d] found in their own keys what they find in R sources: [B,F,N,K,d] float32."""
    sources = shared_k.shape[1]
    q = rearrange(q, "b f n k d -> b k f n d")
    shared_k, shared_v = (rearrange(array, "b r m k d -> r b k m d") for array in (shared_k, shared_v))
    batch, _, frames, _, _ = q.shape
    if share is None:
        share = jnp.full((batch, sources), 1 / sources)
    share = share[:, None] if share.ndim == 4 else share[:, None, None, None]  # [B,1,F or 1,N or 1,R]
    for r in range(sources):
        part = _attend_segment(rearrange(q, "b k f n d -> b k (f n) d"), shared_k[r], shared_v[r])
        part = _Segment(*(rearrange(array, "b k (f n) d -> b k f n d", f=frames) for array in part))
        own = _merge(own, part, share[..., r, None])
    return rearrange(_normalise(own), "b k f n d -> b f n k d")


def shares(weight: jax.Array) -> jax.Array:
    """Weights [...,R] of at least 0 as shares that sum to 1, or to 0 where all weights are 0."""
    total = weight.sum(axis=-1, keepdims=True)
    return jnp.where(total > 0, weight / jnp.where(total > 0, total, 1.0), 0.0)


def sources_seen(share: jax.Array) -> jax.Array:
    """Which sources a position may see by its shares, [...,N,R] of 0 and 1; all, where it has a share in none."""
    seen = share > 0
    return jnp.where(seen.any(axis=-1, keepdims=True), seen, True).astype(jnp.float32)


class _Segment(NamedTuple):
    """Attention over one segment of keys: its value is total / weight, with both scaled by exp(-peak)."""

    total: jax.Array  # [...,N,d] float32
    weight: jax.Array  # [...,N,1] float32
    peak: jax.Array  # [...,N,1] float32


def _attend_segment(q, k, v, seen=None) -> _Segment:
    """Attends from q [...,N,d] to k, v [...,M,d], part by part where all logits at once take too much memory.

    seen: with N = M, what each position may see, [...,N,R] of 0 and 1: none attends to a position that may see more.
    """
    all_rows = functools.partial(_by_queries, limit=MAX_LOGITS * devices())
    if devices() > 1 or math.prod(q.shape[:-1]) * k.shape[-2] <= CPU_LOGITS:
        return all_rows(q, k, v, seen)
    # Not jax.default_backend(): programs for accelerators are traced, planned and exported on machines that have none.
    return jax.lax.platform_dependent(q, k, v, seen, cpu=functools.partial(_by_rows, limit=CPU_LOGITS), default=all_rows)


def _by_rows(q, k, v, seen, limit: int) -> _Segment:
    """`_attend_segment` with as many rows (heads of frames) at a time as `limit` logits allow."""
    *leading, queries, _ = q.shape
    rows, logits = math.prod(leading), queries * k.shape[-2]
    at_once = _divisor(rows, limit // logits)

    def grouped(x):
        return jnp.broadcast_to(x, (*leading, *x.shape[-2:])).reshape(rows // at_once, at_once, *x.shape[-2:])

    def attend_rows(part):
        return _by_queries(*part, limit)

    # Without the checkpoint the backward pass of a loop would keep every part's logits after all; queries have their own.
    body = attend_rows if logits > limit else jax.checkpoint(attend_rows)
    parts = jax.lax.map(body, jax.tree.map(grouped, (q, k, v, seen)))
    return jax.tree.map(lambda part: part.reshape(*leading, queries, -1), parts)


def _by_queries(q, k, v, seen, limit: int) -> _Segment:
    """`_attend_segment` with as many queries at a time as `limit` logits allow."""
    *leading, queries, _ = q.shape
    chunk = _divisor(queries, limit // (math.prod(leading) * k.shape[-2]))
    if chunk == queries:
        return _attend_at_once(q, seen, k, v, seen)

    def chunks(x):
        return None if x is None else jnp.moveaxis(x.reshape(*x.shape[:-2], queries // chunk, chunk, x.shape[-1]), -3, 0)

    parts = jax.lax.map(jax.checkpoint(lambda part: _attend_at_once(*part, k, v, seen)), (chunks(q), chunks(seen)))
    return jax.tree.map(lambda part: jnp.moveaxis(part, 0, -3).reshape(*leading, queries, -1), parts)


def _attend_at_once(q, q_seen, k, v, k_seen) -> _Segment:
    logits = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if q_seen is not None:
        beyond = jnp.matmul(1.0 - q_seen, k_seen.swapaxes(-1, -2))  # how many sources the key sees that the query may not
        logits = jnp.where(beyond < 0.5, logits, -jnp.inf)
    peak = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    weights = jnp.exp(logits - peak)
    total = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return _Segment(total, weights.sum(axis=-1, keepdims=True), peak)


def _merge(own: _Segment, other: _Segment, share) -> _Segment:
    """Joins two segments, each key of the second counting `share` times; where that is 0 the first is kept alone."""
    # The unseen peak is replaced rather than its weight alone: exp of an unbounded difference could overflow.
    other_peak = jnp.where(share > 0, other.peak, own.peak)
    peak = jnp.maximum(own.peak, other_peak)
    own_scale, other_scale = jnp.exp(own.peak - peak), jnp.where(share > 0, share * jnp.exp(other_peak - peak), 0.0)
    total = own.total * own_scale + other.total * other_scale
    return _Segment(total, own.weight * own_scale + other.weight * other_scale, peak)


def _normalise(part: _Segment) -> jax.Array:
    # Without any key at all there is nothing, not 0 / 0.
    return part.total / jnp.where(part.weight > 0, part.weight, 1.0)


def _divisor(count: int, limit: int) -> int:
    """The largest divisor of `count` up to `limit`, at least 1."""
    return next(size for size in range(max(1, min(count, limit)), 0, -1) if count % size == 0)


def _fits_cudnn(q: jax.Array) -> bool:
    """Whether cuDNN's fused attention runs here and takes q [...,d]: half precision, d a multiple of 8 up to 128."""
    dim = q.shape[-1]
    return jax.default_backend() == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16) and dim % 8 == 0 and dim <= 128


def _cudnn_with_shared(q, k, v, shared_k, shared_v, share):
    """One source [B,M,K,d]: cuDNN takes one list of keys a row, so its keys are repeated; share [B,1] shortens the list."""
    frames, tokens = q.shape[1:3]
    shared = shared_k.shape[1]

    def fold(x):
        return rearrange(x, "b f n k d -> (b f) n k d")

    def join(own, common):
        return jnp.concatenate([fold(own), repeat(common.astype(own.dtype), "b m k d -> (b f) m k d", f=frames)], axis=1)

    lengths = None
    if share is not None:
        lengths = tokens + shared * jnp.repeat((share[:, 0] > 0).astype(jnp.int32), frames)
    out = jax.nn.dot_product_attention(
        fold(q),
        join(k, shared_k),
        join(v, shared_v),
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return out.reshape(q.shape)
