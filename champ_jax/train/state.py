"""The whole state of a training run, and how parameters split into trained and frozen ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from champ_jax.models.lora import changed_kernels
from champ_jax.parallel.mesh import put, replicated
from champ_jax.parallel.sharding import layout
from champ_jax.trees import flatten, unflatten

Params = dict[str, Any]


class Guard(NamedTuple):
    """What the step remembers to tell a bad batch from a good one; scalars.

    norm: float32, moving average of the gradients' norm. accepted: int32, updates made. in_row, skipped: int32, updates
    skipped since the last one made, and in all.
    """

    norm: jax.Array
    accepted: jax.Array
    in_row: jax.Array
    skipped: jax.Array


NEW_GUARD = Guard(np.zeros((), np.float32), *(np.zeros((), np.int32) for _ in range(3)))


class TrainState(NamedTuple):
    """Everything that a checkpoint holds; the only thing that a training step changes.

    step: int32 scalar, number of batches seen.
    trained: nested dict of float32 master parameters that receive gradients.
    frozen: nested dict of all other parameters, in the frozen dtype, or float32 where a LoRA changes them; no gradient, no optimiser state.
    optimizer: optax state over `trained`.
    ema: exponential moving average of `trained`, float32.
    """

    step: jax.Array
    trained: Params
    frozen: Params
    optimizer: Any
    ema: Params
    guard: Guard


def partition(params: Params, is_trained: Callable[[str], bool]) -> tuple[Params, Params]:
    """Splits nested `params` by their 'a/b/c' paths into (trained, frozen) nested dicts."""
    flat = flatten(params)
    trained = {path: value for path, value in flat.items() if is_trained(path)}
    frozen = {path: value for path, value in flat.items() if path not in trained}
    return unflatten(trained), unflatten(frozen)


def combine(trained: Params, frozen: Params) -> Params:
    """Inverse of `partition`."""
    return unflatten({**flatten(frozen), **flatten(trained)})


def describe_state(
    params: Params,
    is_trained: Callable[[str], bool],
    optimizer: optax.GradientTransformation,
    frozen_dtype: jnp.dtype,
) -> TrainState:
    """Shapes and dtypes of a state: float32 masters for what is trained, `frozen_dtype` for the rest.

    Kernels that a LoRA changes stay float32: a sum that is rounded to a coarse grid, on which they would lie already, is mostly the
    kernel itself.
    """
    trained, frozen = partition(params, is_trained)
    exact = changed_kernels(trained)
    trained = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), trained)
    kept = {path: jax.ShapeDtypeStruct(x.shape, jnp.float32 if path in exact else frozen_dtype) for path, x in flatten(frozen).items()}
    guard = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), NEW_GUARD)
    return TrainState(
        jax.ShapeDtypeStruct((), jnp.int32), trained, unflatten(kept), jax.eval_shape(optimizer.init, trained), trained, guard
    )


def state_layout(described: TrainState, mesh: Mesh) -> TrainState:
    """A sharding for every array of a state: masters, moments and average in parts, frozen parameters as they compute."""
    masters, compute = (lambda tree: layout(tree, mesh, "masters")), (lambda tree: layout(tree, mesh, "compute"))
    return TrainState(
        replicated(mesh),
        masters(described.trained),
        compute(described.frozen),
        masters(described.optimizer),
        masters(described.ema),
        Guard(*(replicated(mesh) for _ in described.guard)),
    )


def create_state(
    params: Params,
    is_trained: Callable[[str], bool],
    optimizer: optax.GradientTransformation,
    frozen_dtype: jnp.dtype,
    mesh: Mesh,
) -> TrainState:
    """State at step 0 with these parameters (nested dict of host arrays), born in its layout: no device holds it whole."""
    described = describe_state(params, is_trained, optimizer, frozen_dtype)
    shardings = state_layout(described, mesh)
    trained, frozen = partition(params, is_trained)
    trained, frozen = put(trained, shardings.trained, described.trained), put(frozen, shardings.frozen, described.frozen)
    # The average starts as a copy: state buffers are donated, and one buffer cannot be donated twice.
    ema = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings.ema)(trained)
    moments = jax.jit(optimizer.init, out_shardings=shardings.optimizer)(trained)
    return TrainState(put(np.zeros((), np.int32), shardings.step), trained, frozen, moments, ema, put(NEW_GUARD, shardings.guard))


def averaged_params(state: TrainState) -> Params:
    """All parameters with the moving average in place of the masters: what is evaluated and exported."""
    return combine(state.ema, state.frozen)
