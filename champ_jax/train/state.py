"""The whole state of a training run, and how parameters split into trained and frozen ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

Params = dict[str, Any]


class TrainState(NamedTuple):
    """Everything that a checkpoint holds; the only thing that a training step changes.

    step: int32 scalar, number of updates done.
    trained: nested dict of float32 master parameters that receive gradients.
    frozen: nested dict of all other parameters, in the frozen dtype; no gradient, no optimiser state.
    optimizer: optax state over `trained`.
    ema: exponential moving average of `trained`, float32.
    """

    step: jax.Array
    trained: Params
    frozen: Params
    optimizer: Any
    ema: Params


def partition(params: Params, is_trained: Callable[[str], bool]) -> tuple[Params, Params]:
    """Splits nested `params` by their 'a/b/c' paths into (trained, frozen) nested dicts."""
    flat = flatten_dict(params, sep="/")
    trained = {path: value for path, value in flat.items() if is_trained(path)}
    frozen = {path: value for path, value in flat.items() if path not in trained}
    return unflatten_dict(trained, sep="/"), unflatten_dict(frozen, sep="/")


def combine(trained: Params, frozen: Params) -> Params:
    """Inverse of `partition`."""
    return unflatten_dict({**flatten_dict(frozen, sep="/"), **flatten_dict(trained, sep="/")}, sep="/")


def create_state(
    params: Params,
    is_trained: Callable[[str], bool],
    optimizer: optax.GradientTransformation,
    frozen_dtype: jnp.dtype,
) -> TrainState:
    """Fresh state at step 0: float32 masters for what is trained, `frozen_dtype` for the rest."""
    trained, frozen = partition(params, is_trained)
    trained = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), trained)
    frozen = jax.tree.map(lambda x: jnp.asarray(x, frozen_dtype), frozen)
    # The average starts as a copy: state buffers are donated, and one buffer cannot be donated twice.
    ema = jax.tree.map(jnp.copy, trained)
    return TrainState(jnp.zeros((), jnp.int32), trained, frozen, optimizer.init(trained), ema)


def averaged_params(state: TrainState) -> Params:
    """All parameters with the moving average in place of the masters: what is evaluated and exported."""
    return combine(state.ema, state.frozen)
