"""Fingerprints of arrays and the manifest that makes a checkpoint step valid.

Orbax restores flipped bits, and steps of which it wrote nothing, without a word. The manifest is written last, after all
arrays, and says what a step must hold; a step without one that fits does not exist for us.
"""

import json
import math
import os
import zlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from champ_jax.errors import RESUMABLE, UserError

MANIFEST = "manifest.json"
FORMAT = 2
CHUNK = 1 << 22  # bytes
SHOWN = 3


class Corrupt(Exception):
    """A checkpoint step is not what its manifest says; the message names the array or file."""


class Diverged(UserError):
    """Copies of an array differ between devices. The newest checkpoint is from before: restarting mends it."""

    exit_code = RESUMABLE


def fingerprints(arrays: dict[str, jax.Array]) -> dict[str, int]:
    """A 32-bit position-weighted sum of every array's bits, modulo 2^32.

    Each device sums up what it holds, so no array travels, and the sum of the parts is the same for every sharding. Any
    single flipped bit changes it for certain (odd weights), any other damage with odds of 1 - 2^-32.

    Args:
      arrays: {path: array of any shape}, dtypes of at most 32 bits.

    Raises:
      Diverged: devices that should hold the same do not; in every process, naming the arrays.
    """
    sums = {}
    for path, array in arrays.items():
        named = isinstance(array.sharding, NamedSharding)
        sums[path] = (_sums_by_device(array.sharding.mesh, array.sharding.spec) if named else _whole_sum)(array)
    values, wrong = _of_all_devices(sums), []
    result = {}
    for path, array in arrays.items():
        places = array.sharding.devices_indices_map(array.shape)
        found = defaultdict(set)
        for device, value in values[path].items():
            found[str(places[device])].add(value)
        if any(len(copies) > 1 for copies in found.values()):
            wrong.append(path)
        result[path] = sum(min(copies) for copies in found.values()) % 2**32
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise Diverged(
            f"{', '.join(wrong[:SHOWN])}{more} differ between devices that should hold the same: a device computes or remembers "
            "wrongly. Nothing was saved; the same command goes on from the newest checkpoint. If it happens again, leave out the machine"
        )
    return result


def _weighted_sum(part: jax.Array, starts: list, sizes: list[int]) -> jax.Array:
    """The share [1] of a part that begins at `starts` of an array of `sizes` in the array's fingerprint."""
    bits = part
    if part.dtype != jnp.bool_:
        bits = jax.lax.bitcast_convert_type(part, jnp.dtype(f"uint{8 * part.dtype.itemsize}"))
    index = jnp.zeros(part.shape, jnp.uint32)
    for axis, (start, size) in enumerate(zip(starts, sizes)):
        place = jax.lax.broadcasted_iota(jnp.uint32, part.shape, axis) + jnp.uint32(start)
        index = index * jnp.uint32(size) + place
    # The finaliser of MurmurHash3 turns a position into a weight; made odd, it cannot send a flipped bit to zero.
    weight = (index ^ (index >> 16)) * jnp.uint32(0x85EBCA6B)
    weight = (weight ^ (weight >> 13)) * jnp.uint32(0xC2B2AE35)
    weight = (weight ^ (weight >> 16)) | jnp.uint32(1)
    return jnp.sum(bits.astype(jnp.uint32) * weight, dtype=jnp.uint32)[None]


@jax.jit
def _whole_sum(array: jax.Array) -> jax.Array:
    return _weighted_sum(array, [0] * array.ndim, list(array.shape))


@cache
def _sums_by_device(mesh: Mesh, spec: PartitionSpec):
    """A jitted function from an array laid out by `spec` to each device's own share [devices]; nothing is communicated."""

    def own(part: jax.Array) -> jax.Array:
        axes = [() if names is None else names if isinstance(names, tuple) else (names,) for names in spec]
        axes += [()] * (part.ndim - len(axes))
        starts = [jax.lax.axis_index(names) * size if names else 0 for names, size in zip(axes, part.shape)]
        sizes = [size * math.prod(mesh.shape[name] for name in names) for names, size in zip(axes, part.shape)]
        return _weighted_sum(part, starts, sizes)

    return jax.jit(jax.shard_map(own, mesh=mesh, in_specs=spec, out_specs=PartitionSpec(mesh.axis_names), check_vma=False))


def _of_all_devices(sums: dict[str, jax.Array]) -> dict[str, dict[jax.Device, int]]:
    """What each device found, of all devices of all processes; the processes talk once."""
    if not sums:
        return {}
    by_id = [sorted(array.addressable_shards, key=lambda shard: shard.device.id) for array in sums.values()]
    own = np.array(jax.device_get([[shard.data for shard in shards] for shards in by_id]), np.uint32)[..., 0]
    everyone = multihost_utils.process_allgather(own) if jax.process_count() > 1 else own[None]
    values = {}
    for row, (path, array) in enumerate(sums.items()):
        devices = sorted(array.sharding.device_set, key=lambda device: (device.process_index, device.id))
        values[path] = dict(zip(devices, (int(value) for value in everyone[:, row].ravel())))
    return values


def describe(arrays: dict[str, jax.Array]) -> dict[str, dict]:
    """Shape, dtype and fingerprint of every array, as the manifest stores them."""
    sums = fingerprints(arrays)
    return {path: {"shape": list(array.shape), "dtype": str(array.dtype), "fingerprint": sums[path]} for path, array in arrays.items()}


def verify(arrays: dict[str, jax.Array], described: dict[str, dict]) -> None:
    """Raises Corrupt, naming the first arrays whose bits are not those that were saved."""
    sums = fingerprints(arrays)
    changed = [path for path, value in sums.items() if value != described[path]["fingerprint"]]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise Corrupt(f"the stored bits of {', '.join(changed[:3])}{more} have changed")


def array_bytes(arrays: dict[str, Any]) -> int:
    """Bytes that the arrays take, uncompressed."""
    return sum(int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize for array in arrays.values())


def list_files(directory: Path) -> list[str]:
    """Paths relative to `directory` of all files under it, without the manifest itself."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return [path.relative_to(directory).as_posix() for path in files if not path.name.startswith(MANIFEST)]


def file_checksums(directory: Path, names: list[str]) -> dict[str, list[int]]:
    """{name: [bytes, CRC-32]} of files under `directory`. Reads them whole, some at a time."""

    def one(name: str) -> list[int]:
        size = value = 0
        with open(directory / name, "rb") as file:
            while chunk := file.read(CHUNK):
                size, value = size + len(chunk), zlib.crc32(chunk, value)
        return [size, value]

    with ThreadPoolExecutor() as pool:  # zlib works outside Python's lock
        return dict(zip(names, pool.map(one, names)))


def check_files(directory: Path, files: dict[str, list[int]]) -> None:
    """Raises Corrupt naming the first file that is not, byte for byte, what the manifest says.

    Array fingerprints alone would miss damage in bytes that were not read this time, or that compression hides.
    """
    try:
        found = file_checksums(directory, list(files))
    except OSError as error:
        raise Corrupt(f"a file cannot be read: {error}") from error
    for name, (_, checksum) in files.items():
        if found[name][1] != checksum:
            raise Corrupt(f"the bytes of {name} have changed")


def _text(content: dict) -> str:
    """A manifest as it stands in its file, its own checksum included."""
    checksum = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    return json.dumps({**content, "checksum": checksum}, sort_keys=True)


def write_manifest(directory: Path, step: int, arrays: dict[str, dict], meta: dict) -> None:
    """Makes `directory` a valid step: writes its manifest under another name, flushes it and renames it into place.

    Args:
      directory: the step's folder, with all arrays already in it.
      arrays: what `describe` returned.
      meta: anything JSON can hold (config hash, position in the data, ...).
    """
    files = file_checksums(directory, list_files(directory))
    content = {"format": FORMAT, "step": step, "arrays": arrays, "files": files, "meta": meta}
    text = _text(content)
    partial = directory / f"{MANIFEST}.partial"
    with open(partial, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, directory / MANIFEST)
    # The rename itself survives a power cut only once the folder is flushed as well.
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_manifest(directory: Path, step: int) -> dict:
    """The manifest of a step, checked against its own checksum, its folder's number and the sizes of the files beside it.

    Raises:
      Corrupt: missing, unreadable or edited manifest; a file that is missing, has another size, or does not belong there.
      UserError: another version of champ_jax wrote it. It is sound, and must not be taken for damaged.
    """
    try:
        text = (directory / MANIFEST).read_text()
        content = json.loads(text)
        del content["checksum"]
    except FileNotFoundError:
        raise Corrupt(f"it has no {MANIFEST}: saving it was never finished") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"its {MANIFEST} cannot be read: {error}") from error
    if text != _text(content):
        raise Corrupt(f"its {MANIFEST} was changed after it was written")
    if content["format"] != FORMAT:
        raise UserError(
            f"checkpoint {directory} has format {content['format']}, this version of champ_jax reads {FORMAT}: go on with the version "
            "that wrote it, or in another workdir"
        )
    if content["step"] != step:
        raise Corrupt(f"its {MANIFEST} is that of step {content['step']}")
    for name, (size, _) in content["files"].items():
        path = directory / name
        found = path.stat().st_size if path.is_file() else "none: it is missing"
        if found != size:
            raise Corrupt(f"{name} should have {size} bytes and has {found}")
    if added := set(list_files(directory)) - content["files"].keys():
        raise Corrupt(f"{min(added)} does not belong to it")
    return content
