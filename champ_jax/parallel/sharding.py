"""Which mesh axis splits which dimension: one table, and the layout of parameters that follows from it."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("replica", "fsdp", "context", "tensor")

# Logical dimension -> mesh axes. Parameters are whole on every device as long as fsdp and tensor have size 1: data
# parallelism, which at these model sizes is the fastest layout that fits. `context` is for frames of one clip.
RULES = {
    "batch": ("replica", "fsdp"),
    "inputs": ("fsdp",),
    "outputs": ("tensor",),
}


def parameter_spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Layout of one parameter, or of an optimiser moment of its shape.

    A kernel [..., inputs, outputs] is split along its last two dimensions where these divide evenly; vectors, scalars and
    what does not divide stay whole.
    """
    if len(shape) < 2:
        return PartitionSpec()
    spec: list[Any] = [None] * len(shape)
    for position, logical in ((-2, "inputs"), (-1, "outputs")):
        (axis,) = RULES[logical]
        if mesh.shape[axis] > 1 and shape[position] % mesh.shape[axis] == 0:
            spec[position] = axis
    return PartitionSpec(*spec)


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every array of a training state (parameters, moments, average), by shape alone.

    Args:
      state: pytree of arrays or `jax.ShapeDtypeStruct`.
    """
    return jax.tree.map(lambda leaf: NamedSharding(mesh, parameter_spec(tuple(leaf.shape), mesh)), state)
