"""Fingerprints: every single flipped bit changes them, whatever the dtype and position."""

import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.checkpoint.integrity import array_bytes, fingerprints


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8"])
def test_every_flipped_bit_changes_the_fingerprint(dtype):
    array = np.asarray(jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)) * 50, dtype))
    good = fingerprints({"x": jnp.asarray(array)})["x"]
    size = array.dtype.itemsize
    for bit in range(8 * array.size * size):
        raw = bytearray(array.tobytes())
        raw[bit // 8] ^= 1 << (bit % 8)
        flipped = np.frombuffer(bytes(raw), array.dtype).reshape(array.shape)
        assert fingerprints({"x": jnp.asarray(flipped)})["x"] != good


def test_exchanged_values_change_the_fingerprint():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert fingerprints({"x": jnp.asarray(array)}) != fingerprints({"x": jnp.asarray(array[::-1].copy())})


def test_fingerprint_of_known_arrays():
    # Typed in, so that checkpoints stay readable when the code is touched. The weight of position 0 is 1.
    assert fingerprints({"x": jnp.asarray([5], jnp.int32), "flag": jnp.asarray(True)}) == {"x": 5, "flag": 1}


def test_bytes():
    assert array_bytes({"a": jnp.ones((2, 3)), "b": jnp.ones(4, jnp.bfloat16)}) == 24 + 8
