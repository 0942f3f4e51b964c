"""The mesh of devices and the layout of batches on it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from champ_jax.errors import UserError
from champ_jax.parallel.sharding import AXES, RULES, check_rules

SIZES = ("slice", "replica", "fsdp", "context", "tensor")
"""What a configuration gives: devices along each axis."""
INNER = 16
"""The most devices along the inner one of the two axes that replica is split into."""
FRAME_ENTRIES = ("video", "latents", "guidance", "mask", "face_box")
"""Entries of a batch whose second dimension is frames."""


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `AXES`; an axis of size 1 costs nothing.

    Args:
      sizes: devices along each of `SIZES`, 1 where one is not named; -1 on one of them takes all that are left.
      devices: all devices of all processes by default, those of one slice after another. A mesh smaller than that takes
        the first ones.

    Raises:
      UserError: an axis that does not exist, sizes that do not fit the devices.
    """
    check_rules()
    devices = list(jax.devices() if devices is None else devices)
    shape = axis_sizes(sizes, len(devices))
    count = math.prod(shape)
    if count < len(devices) and jax.process_count() > 1:
        raise UserError(f"mesh {dict(sizes)} takes {count} of {len(devices)} devices; with several processes, use all.")
    return _arrange(shape, devices[:count])


def axis_sizes(sizes: Mapping[str, int], devices: int) -> tuple[int, ...]:
    """Sizes of `AXES` that `make_mesh` gives to so many devices; raises UserError as it does."""
    wrong = [name for name in sizes if name not in SIZES]
    if wrong:
        raise UserError(f"the mesh has no axis {', '.join(wrong)}: its axes are {', '.join(SIZES)}.")
    shape = [sizes.get(name, 1) for name in SIZES]
    fixed = math.prod(size for size in shape if size != -1)
    if shape.count(-1) > 1 or fixed < 1:
        raise UserError(f"mesh {dict(sizes)}: sizes are 1 or more, and one of them may be -1 for 'all that are left'.")
    shape = [devices // fixed if size == -1 else size for size in shape]
    count = math.prod(shape)
    if count < 1 or count > devices or (-1 in sizes.values() and count != devices):
        raise UserError(f"mesh {dict(sizes)} does not fit {devices} devices: change --config.mesh.*")
    slices, replica, *rest = shape
    inner = max(size for size in range(1, min(replica, INNER) + 1) if replica % size == 0)
    return (slices, replica // inner, inner, *rest)


def _arrange(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> Mesh:
    """Devices of a slice by where they stand to each other; slices one after another."""
    types = (AxisType.Auto,) * len(AXES)
    slices, per_slice = shape[0], len(devices) // shape[0]
    order = sorted(devices, key=lambda device: (getattr(device, "slice_index", None) or 0, device.id)) if slices > 1 else list(devices)
    # 16 x 16 on a torus of 8 x 8 x 4: an axis of ours may take a part of one of the machine's.
    parts = [
        mesh_utils.create_device_mesh(shape[1:], order[i * per_slice : (i + 1) * per_slice], allow_split_physical_axes=True)
        for i in range(slices)
    ]
    return Mesh(np.stack(parts), AXES, axis_types=types)


def batch_sharding(mesh: Mesh, frames: bool = False) -> NamedSharding:
    """Arrays [B,...] split along B, and with `frames` [B,F,...] also along F."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"], RULES["frames"]) if frames else PartitionSpec(RULES["batch"]))


def batch_layout(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """A sharding for every array of a batch {entry: array or nested dict}."""
    split = mesh.shape["context"] > 1
    return {
        name: jax.tree.map(lambda _, frames=split and name in FRAME_ENTRIES: batch_sharding(mesh, frames), entry)
        for name, entry in batch.items()
    }


def check_batch(batch: Mapping[str, Any], mesh: Mesh, processes: int = 1) -> None:
    """Raises UserError when a batch (arrays or shapes, of one of so many processes) cannot be split over the mesh."""
    parts = math.prod(mesh.shape[axis] for axis in RULES["batch"])
    size = jax.tree.leaves(batch)[0].shape[0] * processes
    if size % parts:
        raise UserError(
            f"a batch of {size} cannot be split over {parts} devices: make it a multiple of {parts}, or use fewer "
            "devices with --config.mesh.replica."
        )
    context = mesh.shape["context"]
    for name in FRAME_ENTRIES:
        for array in jax.tree.leaves(batch.get(name, {})):
            if array.shape[1] % context:
                raise UserError(f"{array.shape[1]} frames cannot be split over mesh.context={context}: make data.frames a multiple.")


def replicated(mesh: Mesh) -> NamedSharding:
    """Arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Puts a batch on the devices, split along B and, over `context`, along F.

    Args:
      batch: nested dict of numpy arrays [b,...], where b is this process's equal share of the global batch B.
      mesh: from `make_mesh`.

    Returns:
      The same tree of global arrays [B,...].

    Raises:
      UserError: B or F is not a multiple of the devices it is split over.
    """
    check_batch(batch, mesh, jax.process_count())
    return jax.tree.map(
        lambda array, sharding: jax.make_array_from_process_local_data(sharding, array), dict(batch), batch_layout(batch, mesh)
    )


def put(tree: Any, shardings: Any, like: Any = None) -> Any:
    """Host arrays on the devices; each device gets its part and no more.

    Args:
      tree: arrays, the same in every process.
      shardings: the same tree of NamedShardings.
      like: the same tree of what has the dtypes to store them as; as they are by default.
    """

    def one(array, sharding, like):
        return jax.make_array_from_callback(array.shape, sharding, lambda index: np.asarray(array[index], like.dtype))

    return jax.tree.map(one, tree, shardings, tree if like is None else like)


def fetch(tree: Any) -> Any:
    """Arrays on the devices as whole NumPy arrays, one after another, in every process."""
    from jax.experimental import multihost_utils

    def one(array):
        return np.asarray(array) if array.is_fully_addressable else multihost_utils.process_allgather(array, tiled=True)

    return jax.tree.map(one, tree)
