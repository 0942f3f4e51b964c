"""Arrays that several devices hold must be the same on all of them: a faulty device is found before its numbers are saved."""

from collections import defaultdict
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from champ_jax.checkpoint.integrity import fingerprint, flatten
from champ_jax.errors import UserError

SHOWN = 3


class Diverged(UserError):
    """Copies of an array differ between devices. The newest checkpoint is from before: restarting mends it."""

    exit_code = 75


def check_replicas(tree: Any) -> None:
    """Compares all copies of all arrays over all devices of all processes; each device sums up its own.

    Raises Diverged in every process, naming arrays and devices.
    """
    if jax.device_count() == 1:
        return
    arrays = flatten(tree)
    sums = [[fingerprint(shard.data) for shard in _by_device(array)] for array in arrays.values()]
    sums = np.array(jax.device_get(sums), np.uint32)  # [arrays, devices of this process]
    if jax.process_count() > 1:
        sums = np.concatenate(list(multihost_utils.process_allgather(sums)), 1)
    wrong = []
    for (path, array), row in zip(arrays.items(), sums):
        devices = sorted(array.sharding.device_set, key=_order)
        values = defaultdict(set)
        places = array.sharding.devices_indices_map(array.shape)
        for device, value in zip(devices, row):
            values[str(places[device])].add(int(value))
        if any(len(found) > 1 for found in values.values()):
            wrong.append(path)
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise Diverged(
            f"{', '.join(wrong[:SHOWN])}{more} differ between devices that should hold the same: a device computes or remembers "
            "wrongly. Nothing was saved; the same command goes on from the newest checkpoint. If it happens again, leave out the machine"
        )


def _order(device: jax.Device) -> tuple[int, int]:
    return device.process_index, device.id


def _by_device(array: jax.Array) -> list:
    return sorted(array.addressable_shards, key=lambda shard: _order(shard.device))
