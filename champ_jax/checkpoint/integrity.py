"""Fingerprints of arrays and the manifest that makes a checkpoint step valid.

Orbax restores flipped bits, and steps of which it wrote nothing, without a word. The manifest is written last, after all
arrays, and says what a step must hold; a step without one that fits does not exist for us.
"""

import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from champ_jax.errors import UserError

MANIFEST = "manifest.json"
FORMAT = 2
CHUNK = 1 << 22  # bytes


class Corrupt(Exception):
    """A checkpoint step is not what its manifest says; the message names the array or file."""


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves of any pytree by their path, 'trained/denoiser/down_0/kernel', in the tree's order."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


@jax.jit
def fingerprint(array: jax.Array) -> jax.Array:
    """The uint32 that `fingerprints` speaks of, of one array."""
    bits = array
    if array.dtype != jnp.bool_:
        bits = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * array.dtype.itemsize}"))
    index = jnp.zeros(array.shape, jnp.uint32)
    for axis, size in enumerate(array.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    # The finaliser of MurmurHash3 turns a position into a weight; made odd, it cannot send a flipped bit to zero.
    weight = (index ^ (index >> 16)) * jnp.uint32(0x85EBCA6B)
    weight = (weight ^ (weight >> 13)) * jnp.uint32(0xC2B2AE35)
    weight = (weight ^ (weight >> 16)) | jnp.uint32(1)
    return jnp.sum(bits.astype(jnp.uint32) * weight, dtype=jnp.uint32)


def fingerprints(arrays: dict[str, jax.Array]) -> dict[str, int]:
    """A 32-bit position-weighted sum of every array's bits, modulo 2^32.

    Computed where the array lives, and a sum, so it is the same for every sharding and no array travels to the host. Any
    single flipped bit changes it for certain (odd weights), any other damage with odds of 1 - 2^-32.

    Args:
      arrays: {path: array of any shape}, dtypes of at most 32 bits.
    """
    sums = {path: fingerprint(array) for path, array in arrays.items()}
    return {path: int(value) for path, value in jax.device_get(sums).items()}


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
