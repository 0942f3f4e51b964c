"""Kernels in 8 bits: rounding, what counts as one, and multiplying them, at their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from champ_jax.models.animator import merge, split
from champ_jax.nn.keys import ParamKeys
from champ_jax.nn.layers import conv, linear
from champ_jax.nn.policy import Policy
from champ_jax.nn.quantised import dequantise, is_quantised, to_eight_bits


class Net(nnx.Module):
    """One linear layer and one convolution, in a dict and beside it."""

    def __init__(self):
        keys = ParamKeys(0)
        self.parts = nnx.Dict({"dense": linear(8, 16, keys, Policy())})
        self.conv = conv(16, 4, keys, Policy(), stride=2)

    def __call__(self, x):
        """x [B,h,w,8] -> [B,h/2,w/2,4]."""
        return self.conv(self.parts["dense"](x))


def node(kernel, dtype="int8", limit=None):
    values, scale = to_eight_bits(kernel, dtype)
    return {"values": values, "scale": scale, **({} if limit is None else {"range": np.asarray(limit, np.float32)})}


@pytest.fixture(scope="module")
def net():
    """(graphdef, parameters, input, output)."""
    graphdef, params = split(Net())
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 6, 8)), jnp.float32)
    return graphdef, params, x, merge(graphdef, params)(x)


def quantised(params, dtype="int8", limit=None):
    dense, kernel = params["parts"]["dense"], params["conv"]
    return {
        "parts": {"dense": dense | {"kernel": node(dense["kernel"], dtype, limit)}},
        "conv": kernel | {"kernel": node(kernel["kernel"], dtype, limit)},
    }


def error(net, params):
    graphdef, _, x, expected = net
    found = jax.jit(lambda params, x: merge(graphdef, params)(x))(params, x)
    assert found.dtype == expected.dtype
    return float(jnp.sqrt(jnp.mean((found - expected) ** 2) / jnp.mean(expected**2)))


def test_int8_is_off_by_half_a_scale_at_most_and_keeps_zeros():
    kernel = np.random.default_rng(1).standard_normal((3, 3, 5, 7)).astype(np.float32)
    kernel[..., 2] = 0
    kernel[0, 0, 0, 3] = 100
    values, scale = to_eight_bits(kernel)
    assert values.dtype == np.int8 and scale.shape == (7,) and np.isfinite(scale).all()
    assert np.abs(values).max() == 127 and not values[..., 2].any()
    assert (np.abs(values * scale - kernel) <= scale / 2 * (1 + 1e-5)).all()
    again, same = to_eight_bits(values * scale)
    np.testing.assert_array_equal(again, values)
    np.testing.assert_allclose(same, scale, rtol=1e-6)


def test_fp8_is_off_by_a_sixteenth_at_most_and_overflows_nowhere():
    kernel = np.random.default_rng(1).standard_normal((64, 7)).astype(np.float32)
    values, scale = to_eight_bits(kernel, "float8_e4m3fn")
    found = values.astype(np.float32) * scale
    large = np.abs(kernel) > np.abs(kernel).max(0) * 1e-3
    assert np.isfinite(found).all()
    assert (np.abs(found - kernel) <= np.abs(kernel) / 16 * (1 + 1e-5))[large].all()


def test_only_whole_kernels_count():
    good = node(np.ones((3, 4), np.float32))
    assert is_quantised(good)
    assert not is_quantised({"values": good["values"]})
    assert not is_quantised(good | {"scale": np.ones(3, np.float32)})
    assert not is_quantised(good | {"values": np.ones((3, 4), np.float32)})


def test_other_parameters_pass_through_untouched(net):
    params = net[1]
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, dequantise(params), params))


def test_kernels_of_8_bits_give_the_same_to_their_rounding(net):
    assert 0 < error(net, quantised(net[1])) < 0.01


@pytest.mark.parametrize("limit", [[], [5.0]])
def test_inputs_of_8_bits_are_close(net, limit):
    pytest.importorskip("qwix")
    assert error(net, quantised(net[1])) < error(net, quantised(net[1], limit=limit)) < 0.03


def test_a_range_too_small_clips_and_does_not_wrap(net):
    pytest.importorskip("qwix")
    assert 0.3 < error(net, quantised(net[1], limit=[0.1])) < 1


def test_8_bit_multiplication_reads_8_bits_and_no_float_kernel(net):
    pytest.importorskip("qwix")
    graphdef, params, x, _ = net
    params = quantised(params, limit=[])
    lowered = jax.jit(lambda params, x: merge(graphdef, params)(x)).lower(params, x)
    assert "xi8>" in lowered.as_text() and "xi32>" in lowered.as_text()
    products = [line for line in lowered.as_text().splitlines() if "dot_general" in line or "stablehlo.convolution" in line]
    assert len(products) == 2 and all("xi8>" in line for line in products)


def test_qwix_rounds_as_well_as_this():
    qwix = pytest.importorskip("qwix")
    kernel = np.random.default_rng(2).standard_normal((16, 8)).astype(np.float32)
    theirs = qwix.dequantize(qwix.quantize(jnp.asarray(kernel), "int8", channelwise_axes=[1]))
    values, scale = to_eight_bits(kernel)
    # Its largest value stands for 127.5 scales.
    assert (np.abs(theirs - values * scale) <= 1.01 * scale).all()
    assert np.square(values * scale - kernel).mean() < 1.1 * np.square(theirs - kernel).mean()
