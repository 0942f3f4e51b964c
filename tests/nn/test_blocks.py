"""Attention and the transformer block: the short cut of a single token, frames, and what a reference changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from champ_jax.nn.attention import Attention
from champ_jax.nn.blocks import BlockReference, Read, ResnetBlock, SpatialTransformer
from champ_jax.nn.keys import ParamKeys
from champ_jax.nn.policy import Policy

B, F, SIZE, C, DC = 2, 3, 4, 16, 8


@pytest.fixture(scope="module")
def block():
    return SpatialTransformer(C, heads=4, groups=4, context_dim=DC, ff_mult=2, rngs=ParamKeys(0), policy=Policy())


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (B * F, SIZE, SIZE, C))


def test_a_single_token_needs_no_softmax():
    """The short cut equals attention in value and in every gradient; queries and keys get none."""
    graphdef, params = nnx.split(Attention(C, 4, ParamKeys(0), Policy(), DC))
    queries = jax.random.normal(jax.random.key(1), (B, 5, C))
    token = jax.random.normal(jax.random.key(2), (B, 1, DC))

    def value(call):
        def loss(params, token):
            out = jnp.broadcast_to(call(nnx.merge(graphdef, params), token), queries.shape)
            return jnp.sum(jnp.sin(out)), out

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, token)

    (short, short_token), out = value(lambda attention, token: attention.single_token(token))
    (full, full_token), expected = value(lambda attention, token: attention(queries, token))
    np.testing.assert_allclose(out, expected, atol=1e-6)
    np.testing.assert_allclose(short_token, full_token, atol=1e-5)
    for a, b in zip(jax.tree.leaves(short), jax.tree.leaves(full)):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_copies_of_a_token_are_as_one(block, x):
    """Two equal tokens take the general path and must give what one gives."""
    context = jax.random.normal(jax.random.key(3), (B, 1, DC))
    one, _ = block(x, Read(context), batch=B)
    two, _ = block(x, Read(jnp.repeat(context, 2, axis=1)), batch=B)
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_frames_do_not_see_each_other(block, x):
    read = Read(jnp.ones((B, 1, DC)))
    out, features = block(x, read, batch=B)
    changed, _ = block(x.at[1].add(1.0), read, batch=B)
    same = [i for i in range(B * F) if i != 1]
    np.testing.assert_array_equal(out[jnp.array(same)], changed[jnp.array(same)])
    assert features.tokens.shape == (B, F * SIZE**2, C) and features.moments.shape == (B * F, 2, C)


def test_a_reference_changes_only_rows_that_may_see_it(block, x):
    context = jnp.ones((B, 1, DC))
    keys, values = block.attn1.project(jax.random.normal(jax.random.key(4), (B, 1, 7, C)))
    plain, _ = block(x, Read(context), batch=B)
    reference = BlockReference(keys, values, None, jnp.ones((B, 1, 2, C)))
    out, _ = block(x, Read(context, reference, jnp.array([[0.0], [1.0]])), batch=B)
    np.testing.assert_allclose(out[:F], plain[:F], atol=1e-6)
    assert float(jnp.abs(out[F:] - plain[F:]).max()) > 1e-3


def test_without_context_there_is_no_cross_attention(x):
    block = SpatialTransformer(C, 4, 4, None, 2, ParamKeys(0), Policy())
    assert block(x, batch=B)[0].shape == x.shape
    assert not hasattr(block, "attn2")


def test_resnet_adds_each_samples_time_to_all_its_frames(x):
    block = ResnetBlock(C, 8, time_width=5, groups=4, rngs=ParamKeys(0), policy=Policy())
    time = jnp.arange(2 * 5.0).reshape(2, 5)
    together = block(x, time)
    alone = block(x[F:], time[1:])
    np.testing.assert_allclose(together[F:], alone, atol=1e-5)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width 10 does not divide into 4 heads"):
        Attention(10, 4, ParamKeys(0), Policy())


def test_tokens_first_attend_to_their_like(block):
    """Spatial self-attention starts with keys equal to queries, cross-attention with keys of its own."""
    np.testing.assert_array_equal(block.attn1.to_k.kernel[...], block.attn1.to_q.kernel[...])
    assert block.attn2.to_k.kernel.shape != block.attn2.to_q.kernel.shape
