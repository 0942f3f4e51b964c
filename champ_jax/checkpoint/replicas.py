"""Arrays that several devices hold must be the same on all of them: a faulty device is found before its numbers are saved."""

from collections import defaultdict
from functools import cache
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from champ_jax.checkpoint.integrity import fingerprint, flatten
from champ_jax.errors import UserError

SHOWN = 3


class Diverged(UserError):
    """Copies of an array differ between devices. The newest checkpoint is from before: restarting mends it."""

    exit_code = 75


def check_replicas(tree: Any) -> None:
    """Compares all copies of all arrays over all devices of all processes; each device sums up its own.

    tree: arrays with NamedShardings of one mesh. Raises Diverged in every process, naming arrays.
    """
    if jax.device_count() == 1:
        return
    arrays = flatten(tree)
    sums = jax.device_get({path: _per_device(array.sharding.mesh, array.sharding.spec)(array) for path, array in arrays.items()})
    wrong = []
    for path, array in arrays.items():
        places = array.sharding.devices_indices_map(array.shape)
        values = defaultdict(set)
        for device, value in zip(array.sharding.mesh.devices.flat, sums[path]):
            values[str(places[device])].add(int(value))
        if any(len(found) > 1 for found in values.values()):
            wrong.append(path)
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise Diverged(
            f"{', '.join(wrong[:SHOWN])}{more} differ between devices that should hold the same: a device computes or remembers "
            "wrongly. Nothing was saved; the same command goes on from the newest checkpoint. If it happens again, leave out the machine"
        )


@cache
def _per_device(mesh: Mesh, spec: PartitionSpec):
    """A jitted function from an array laid out by `spec` to the fingerprints of each device's own part, uint32 [devices]."""
    own = jax.shard_map(
        lambda part: fingerprint(part)[None], mesh=mesh, in_specs=spec, out_specs=PartitionSpec(mesh.axis_names), check_vma=False
    )
    return jax.jit(own, out_shardings=NamedSharding(mesh, PartitionSpec()))
