"""Layers against numbers worked out by hand or by numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.nn.keys import ParamKeys
from champ_jax.nn.layers import FeedForward, GroupNorm, TimeEmbedding, conv, linear, place_sinusoids, time_sinusoid, upsample_nearest
from champ_jax.nn.policy import Policy

KEYS = ParamKeys(0)


def test_group_norm():
    x = np.random.default_rng(0).normal(3.0, 2.0, (2, 3, 5, 8)).astype(np.float32)
    norm = GroupNorm(8, 4, KEYS, Policy(), epsilon=1e-3)
    norm.scale[...] = jnp.arange(8.0)
    norm.bias[...] = jnp.ones(8)
    groups = x.reshape(2, 15, 4, 2)
    centred = groups - groups.mean((1, 3), keepdims=True)
    expected = (centred / np.sqrt(np.square(centred).mean((1, 3), keepdims=True) + 1e-3)).reshape(x.shape)
    np.testing.assert_allclose(norm(x), expected * np.arange(8) + 1, atol=1e-5)


def test_group_norm_statistics_are_float32():
    """Squares of bfloat16 numbers around 300 would lose their variance in bfloat16."""
    x = jnp.asarray(300.0 + np.random.default_rng(0).normal(0.0, 4.0, (1, 64, 8)), jnp.bfloat16)
    out = GroupNorm(8, 2, KEYS, Policy(compute=jnp.bfloat16))(x)
    assert out.dtype == jnp.bfloat16
    assert abs(float(out.astype(jnp.float32).std()) - 1.0) < 0.02


def test_group_norm_refuses_uneven_groups():
    with pytest.raises(ValueError, match="10 channels do not divide into 4 groups"):
        GroupNorm(10, 4, KEYS, Policy())


def test_strided_convolution_pads_like_pytorch():
    layer = conv(1, 1, KEYS, Policy(), stride=2)
    layer.kernel[...] = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0)
    out = layer(jnp.arange(1.0, 17.0).reshape(1, 4, 4, 1))[0, :, :, 0]
    np.testing.assert_array_equal(out, [[0, 0], [0, 6]])


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (4, 2), (5, 1), (3, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_of_images_smaller_than_the_window(shape, stride):
    layer = conv(3, 5, KEYS, Policy(), stride=stride)
    x = np.random.default_rng(0).standard_normal((2, *shape, 3)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = range(0, shape[0], stride), range(0, shape[1], stride)
    kernel = np.asarray(layer.kernel[...])
    expected = [[np.einsum("bijc,ijco->bo", padded[:, i : i + 3, j : j + 3], kernel) for j in columns] for i in rows]
    np.testing.assert_allclose(layer(x), np.moveaxis(np.array(expected), 2, 0), atol=1e-5)


def test_zero_layers_start_at_nothing():
    for layer, shape in ((linear(4, 3, KEYS, Policy(), zero=True), (2, 4)), (conv(4, 3, KEYS, Policy(), zero=True), (1, 2, 2, 4))):
        assert not np.any(layer(jnp.ones(shape)))


def test_compute_dtype_is_the_policys():
    policy = Policy(compute=jnp.bfloat16)
    layer = linear(4, 3, KEYS, policy)
    assert layer.kernel[...].dtype == jnp.float32
    assert layer(jnp.ones((2, 4))).dtype == jnp.bfloat16


def test_feed_forward_gates_the_first_half_by_the_second():
    ff = FeedForward(1, 1, KEYS, Policy())
    ff.proj.kernel[...] = jnp.array([[2.0, 1.0]])
    ff.out.kernel[...] = jnp.ones((1, 1))
    # 2 * gelu(1) with gelu(1) = 0.8413447 in the exact, erf form.
    np.testing.assert_allclose(ff(jnp.ones((1, 1))), [[2 * 0.8413447]], rtol=1e-6)


def test_time_sinusoid():
    """Cosines first, frequencies 1 and 1/100 for width 4."""
    expected = [np.cos(100.0), np.cos(1.0), np.sin(100.0), np.sin(1.0)]
    np.testing.assert_allclose(time_sinusoid(jnp.array([100]), 4)[0], expected, atol=1e-5)


def test_time_embedding_shape():
    assert TimeEmbedding(8, KEYS, Policy())(jnp.array([0, 5, 999])).shape == (3, 32)


@pytest.mark.parametrize("size", [(4, 6), (3, 6), (3, 5)])
def test_upsample_takes_pytorchs_nearest_pixels(size):
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    rows, columns = (np.arange(out) * small // out for out, small in zip(size, (2, 3)))
    np.testing.assert_array_equal(upsample_nearest(x, size)[0, :, :, 0], x[0][np.ix_(rows, columns)][:, :, 0])
    gradient = jax.grad(lambda x: upsample_nearest(x, size).sum())(x)
    assert float(gradient.sum()) == size[0] * size[1]


def test_places_differ_and_neighbours_are_alike():
    table = np.asarray(place_sinusoids((6, 10, 18)))
    assert table.shape == (6, 10, 18)
    flat = table.reshape(60, 18)
    likeness = flat @ flat.T
    assert (likeness.argmax(1) == np.arange(60)).all()
    assert likeness[25, 26] > likeness[25, 29] and likeness[25, 35] > likeness[25, 55]
