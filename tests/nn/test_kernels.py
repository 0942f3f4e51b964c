"""Attention over one and two segments of keys, against softmax written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.nn import kernels
from champ_jax.nn.kernels import attend, attend_with_shared

B, F, N, M, K, D = 2, 3, 6, 5, 2, 4


def plain(q, k, v):
    logits = np.einsum("bnkd,bmkd->bknm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bknm,bmkd->bnkd", weights / weights.sum(-1, keepdims=True), v)


@pytest.fixture
def arrays():
    draw = np.random.default_rng(0).standard_normal
    own = [draw((B, F, N, K, D)).astype(np.float32) for _ in range(3)]
    shared = [draw((B, 1, M, K, D)).astype(np.float32) for _ in range(2)]
    return own, shared


def joined(own, shared):
    """Both segments concatenated, the shared one repeated for each frame."""
    q, k, v = (a.reshape(B * F, N, K, D) for a in own)
    k, v = (np.concatenate([a, np.repeat(s[:, 0], F, axis=0)], axis=1) for a, s in zip((k, v), shared))
    return plain(q, k, v).reshape(B, F, N, K, D)


def test_attend_is_softmax_attention(arrays):
    q, k, v = (a[:, 0] for a in arrays[0])
    np.testing.assert_allclose(attend(q, k[:, :4], v[:, :4]), plain(q, k[:, :4], v[:, :4]), atol=1e-6)


def test_two_segments_are_one_softmax(arrays):
    own, shared = arrays
    np.testing.assert_allclose(attend_with_shared(*own, *shared), joined(own, shared), atol=1e-6)


def test_masked_rows_see_only_themselves(arrays):
    own, shared = arrays
    mask = jnp.array([[0.0], [1.0]])
    out = attend_with_shared(*own, *shared, mask)
    alone = attend(*(a.reshape(B * F, N, K, D) for a in own)).reshape(B, F, N, K, D)
    np.testing.assert_array_equal(out[0], alone[0])
    np.testing.assert_allclose(out[1], joined(own, shared)[1], atol=1e-6)


def test_masked_rows_send_no_gradient_to_the_reference(arrays):
    own, shared = arrays
    huge = shared[0].copy()
    huge[0] *= 1e4  # logits that would overflow if they were used
    grad = jax.grad(lambda k: jnp.sum(attend_with_shared(*own, k, shared[1], jnp.array([[0.0], [1.0]])) ** 2))(huge)
    assert np.all(np.asarray(grad[0]) == 0)
    assert np.all(np.isfinite(grad)) and np.any(np.asarray(grad[1]) != 0)


def value_and_gradients(own, shared):
    def loss(*arrays):
        return jnp.sum(attend_with_shared(*arrays) ** 2)

    return jax.tree.leaves(jax.value_and_grad(loss, argnums=range(5))(*own, *shared))


def traced(arrays):
    """What is computed now: JAX would remember a function that it traced under another limit."""
    return str(jax.make_jaxpr(lambda *arrays: attend_with_shared(*arrays))(*arrays[0], *arrays[1]))


@pytest.mark.parametrize("rows", [2, 1 / 3], ids=["rows", "queries of a row"])
def test_parts_on_a_cpu_change_nothing(arrays, monkeypatch, rows):
    at_once = value_and_gradients(*arrays)
    monkeypatch.setattr(kernels, "CPU_LOGITS", int(rows * N * N))
    assert "scan[" in traced(arrays)
    for a, b in zip(at_once, value_and_gradients(*arrays)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_parts_on_a_cpu_keep_apart_what_is_not_seen(monkeypatch):
    draw = np.random.default_rng(0).standard_normal
    q, k, v = (draw((B, N, K, D)).astype(np.float32) for _ in range(3))
    seen = (np.arange(B * N * 2).reshape(B, N, 2) % 3 > 0).astype(np.float32)
    at_once = attend(q, k, v, seen)
    assert np.abs(at_once - attend(q, k, v)).max() > 0.01
    monkeypatch.setattr(kernels, "CPU_LOGITS", 2 * N)
    np.testing.assert_allclose(attend(q, k, v, seen), at_once, atol=1e-6)


def test_chunks_of_queries_change_nothing(arrays, monkeypatch):
    """What accelerators do, and several devices: all rows at once, but not all queries."""
    at_once = value_and_gradients(*arrays)
    monkeypatch.setattr(kernels, "MAX_LOGITS", B * K * F * N)
    with kernels.shared_by(2):
        assert "scan[" in traced(arrays)
        chunked = value_and_gradients(*arrays)
    for a, b in zip(at_once, chunked):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_exports_for_accelerators_attend_at_once(arrays, monkeypatch, platform):
    monkeypatch.setattr(kernels, "CPU_LOGITS", N)
    exported = jax.export.export(jax.jit(lambda *arrays: attend_with_shared(*arrays)), platforms=[platform])(*arrays[0], *arrays[1])
    text = exported.mlir_module()
    assert "stablehlo.while" not in text and "custom_call" not in text


def test_half_precision_stays_half(arrays):
    own, shared = (tuple(jnp.asarray(a, jnp.bfloat16) for a in group) for group in arrays)
    out = attend_with_shared(*own, *shared)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), joined(*arrays), atol=0.05)
