"""The mesh of devices and the layout of batches on it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from champ_jax.errors import UserError
from champ_jax.parallel.sharding import AXES, RULES


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh (replica, fsdp, context, tensor); an axis of size 1 costs nothing.

    Args:
      sizes: devices along each axis, 1 where an axis is not named; -1 on one axis takes all that are left.
      devices: all devices of all processes by default. A mesh smaller than that takes the first ones.

    Raises:
      UserError: an axis that does not exist, sizes that do not fit the devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    wrong = [name for name in sizes if name not in AXES]
    if wrong:
        raise UserError(f"the mesh has no axis {', '.join(wrong)}: its axes are {', '.join(AXES)}.")
    shape = [sizes.get(name, 1) for name in AXES]
    fixed = math.prod(size for size in shape if size != -1)
    if shape.count(-1) > 1 or fixed < 1:
        raise UserError(f"mesh {dict(sizes)}: sizes are 1 or more, and one of them may be -1 for 'all that are left'.")
    shape = [len(devices) // fixed if size == -1 else size for size in shape]
    count = math.prod(shape)
    if count < 1 or count > len(devices) or (-1 in sizes.values() and count != len(devices)):
        raise UserError(f"mesh {dict(sizes)} does not fit {len(devices)} devices: change --config.mesh.*")
    if count < len(devices) and jax.process_count() > 1:
        raise UserError(f"mesh {dict(sizes)} takes {count} of {len(devices)} devices; with several processes, use all.")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:count])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays [B,...] split along B."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
    """Arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Puts a batch on the devices, split along B.

    Args:
      batch: pytree of numpy arrays [b,...], where b is this process's equal share of the global batch B.
      mesh: from `make_mesh`.

    Returns:
      The same tree of global arrays [B,...].

    Raises:
      UserError: B is not a multiple of the devices it is split over.
    """
    sharding = batch_sharding(mesh)
    parts = math.prod(mesh.shape[axis] for axis in RULES["batch"])
    size = jax.tree.leaves(batch)[0].shape[0] * jax.process_count()
    if size % parts:
        raise UserError(
            f"a batch of {size} cannot be split over {parts} devices: make it a multiple of {parts}, or use fewer "
            "devices with --config.mesh.replica."
        )
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), batch)
