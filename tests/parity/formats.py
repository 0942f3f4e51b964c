"""What every Format promises, checked with a seeded state dict: nothing lost, nothing changed, nothing unnoticed."""

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from champ_jax.convert.formats import Format, Weights, read, write
from champ_jax.errors import UserError
from champ_jax.models.animator import merge, split
from champ_jax.nn.keys import ParamKeys


def materialise(params, dtype=np.float32):
    """Nested LazyArrays as nested arrays in memory, all of `dtype`."""
    return jax.tree.map(lambda leaf: np.array(leaf, dtype), params)


def filled(model, config, params):
    """`model(config)` with these parameters, as float32."""
    graphdef, _ = split(nnx.eval_shape(lambda: model(config, ParamKeys(0))))
    return merge(graphdef, materialise(params))


def run(model, function, *args):
    """`function(model, *args)` compiled, with the model's parameters as an argument."""
    graphdef, params = split(model)
    return jax.jit(lambda params, *args: function(merge(graphdef, params), *args))(params, *args)


def check_round_trip(state: dict, format: Format) -> Weights:
    """Reads and writes a state dict, half of it in bfloat16: every tensor must come back byte for byte."""
    half = {
        name: array.astype(ml_dtypes.bfloat16) if i % 2 and array.dtype == np.float32 else array
        for i, (name, array) in enumerate(state.items())
    }
    assert format.matches(list(half))
    weights = read(half, {}, format, "the file")
    again = write(weights, format, "the weights")
    assert again.keys() == half.keys()
    for name, array in half.items():
        found = np.asarray(again[name])
        assert found.dtype == array.dtype and found.shape == array.shape, name
        assert found.tobytes() == array.tobytes(), name
    return weights


def check_accounting(state: dict, format: Format, missing: str) -> None:
    """A key missing, one too many, and one of another shape are errors that name it."""
    without = {name: array for name, array in state.items() if name != missing}
    with pytest.raises(UserError, match=missing):
        read(without, {}, format, "the file")
    with pytest.raises(UserError, match="surprise.weight"):
        read({**state, "surprise.weight": np.zeros(1, np.float32)}, {}, format, "the file")
    with pytest.raises(UserError, match=missing):
        read({**state, missing: np.zeros((7, *state[missing].shape), np.float32)}, {}, format, "the file")
