"""Files of `torch.save`, without PyTorch: the zip form of today and the form that came before it."""

from __future__ import annotations

import io
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from champ_jax.checkpoint.tensors import LazyArray, in_file
from champ_jax.convert import pickles
from champ_jax.convert.zip_file import stored_members
from champ_jax.errors import UserError

STORAGES = {
    "Double": np.float64, "Float": np.float32, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_,
    "Untyped": np.uint8,
}  # fmt: skip
DTYPES = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2,
    "int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8, "uint8": np.uint8, "bool": np.bool_,
}  # fmt: skip
MAGIC_ZIP = b"PK\x03\x04"
MAGIC_PICKLE = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""How files of PyTorch before 1.6 begin: the first pickle holds a magic number."""
MAX_PICKLE = 32 << 20
MAX_DEPTH = 64


class Storage(NamedTuple):
    """A run of numbers in the file that tensors are views of."""

    key: str
    dtype: np.dtype
    count: int


def read_torch(path: Path) -> Any:
    """What was saved, with a LazyArray for each tensor: mostly a dict of them, or nested dicts and lists.

    Raises UserError when the file is damaged, is of a form older than PyTorch 0.4, or holds more than tensors, plain
    containers, numbers and text. Nothing in it is run.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
        if start.startswith(MAGIC_ZIP):
            return _read_zip(path)
        if start.startswith(MAGIC_PICKLE):
            return _read_old(path)
    except (OSError, ValueError, struct.error) as error:
        raise UserError(f"{path} is damaged or no file of PyTorch: {error}. Copy it again.") from error
    if start[257:262] == b"ustar":
        raise UserError(f"{path} is a tar archive, the form that PyTorch wrote before 0.4: load it in PyTorch and save it again.")
    raise UserError(f"{path} is no file of PyTorch: it begins with {start[:8]!r}.")


def _operations(path: Path) -> int:
    return 100_000 + path.stat().st_size // 64


def _read_zip(path: Path) -> Any:
    members = stored_members(path)
    pickled = [name for name in members if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickled) != 1:
        what = "a TorchScript archive" if any(name.endswith("constants.pkl") for name in members) else "no archive of torch.save"
        raise UserError(f"{path} is {what}: expected one data.pkl. Save its state_dict() with torch.save.")
    root = pickled[0].removesuffix("data.pkl")
    if any(name.startswith(f"{root}code/") for name in members):
        raise UserError(f"{path} is a TorchScript archive: save its state_dict() with torch.save.")
    offset, size = members[pickled[0]]
    if size > MAX_PICKLE:
        raise ValueError(f"its data.pkl has {size} bytes, and lists of tensors at most {MAX_PICKLE}")
    if (order := members.get(f"{root}byteorder")) and _bytes(path, *order) != b"little":
        raise UserError(f"{path} was written on a big-endian machine: load it in PyTorch and save it again on this one.")
    tree = pickles.load(io.BytesIO(_bytes(path, offset, size)), _storage, _operations(path), str(path))

    def place(storage: Storage) -> tuple[int, int]:
        member = members.get(f"{root}data/{storage.key}")
        if member is None:
            raise ValueError(f"the storage {storage.key!r} is missing")
        return member

    return _resolve(tree, path, place)


def _read_old(path: Path) -> Any:
    """Magic number, protocol, system, what was saved, the order of storages, then each as its count and its numbers."""
    with path.open("rb") as file:
        data = io.BytesIO(file.read(MAX_PICKLE))
    storages: dict[str, Storage] = {}

    def persistent(identifier):
        storage = _storage(identifier)
        return storages.setdefault(storage.key, storage)

    budget = _operations(path)
    parts = [pickles.load(data, persistent, budget, str(path)) for _ in range(5)]
    _, _, system, tree, order = parts
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise UserError(f"{path} was written on a big-endian machine: load it in PyTorch and save it again on this one.")
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(storages):
        raise ValueError("the list of its storages is damaged")
    places, at, total = {}, data.tell(), path.stat().st_size
    for key in order:
        storage = storages[str(key)]
        (count,) = struct.unpack("<q", _bytes(path, at, 8))
        size = count * storage.dtype.itemsize
        if count != storage.count or at + 8 + size > total:
            raise ValueError(f"the storage {str(key)[:50]!r} claims {count} numbers; the file is cut off or damaged")
        places[str(key)] = (at + 8, size)
        at += 8 + size
    return _resolve(tree, path, lambda storage: places[storage.key])


def _bytes(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        found = file.read(size)
    if len(found) != size:
        raise ValueError("the file is cut off")
    return found


def _storage(identifier: Any) -> Storage:
    """Of ("storage", class, key, device, count, ...)."""
    if not isinstance(identifier, tuple) or len(identifier) < 5 or identifier[0] != "storage":
        raise ValueError("a storage that is none")
    _, kind, key, _, count = identifier[:5]
    if not isinstance(kind, pickles.Name) or not isinstance(count, int) or count < 0:
        raise ValueError("a storage that is none")
    name = kind.text.rpartition(".")[2].removesuffix("Storage")
    if name not in STORAGES:
        raise ValueError(f"a storage of the unknown kind {name!r}")
    if len(identifier) > 5 and identifier[5] is not None:
        raise ValueError("a storage that is a view of another")
    return Storage(str(key), np.dtype(STORAGES[name]), count)


def _resolve(node: Any, path: Path, place, depth: int = 0, made: dict[int, Any] | None = None) -> Any:
    """The tree with a LazyArray for each TensorView; a container that is in several places is made once."""
    made = {} if made is None else made
    if depth > MAX_DEPTH:
        raise ValueError(f"containers are nested deeper than {MAX_DEPTH}")
    if isinstance(node, pickles.TensorView):
        return _tensor(node, path, place)
    if isinstance(node, (pickles.Name, pickles.Inert)) or not isinstance(node, (dict, list, tuple)):
        return node
    if id(node) not in made:
        if isinstance(node, dict):
            made[id(node)] = {key: _resolve(value, path, place, depth + 1, made) for key, value in node.items()}
        else:
            made[id(node)] = [_resolve(value, path, place, depth + 1, made) for value in node]
    return made[id(node)]


def _tensor(view: pickles.TensorView, path: Path, place) -> LazyArray:
    storage = view.storage
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    offset, size = place(storage)
    dtype = storage.dtype if view.dtype is None else np.dtype(DTYPES[view.dtype.text.removeprefix("torch.")])
    item = dtype.itemsize
    if any(length > 1 << 48 for length in view.shape):
        raise ValueError(f"a tensor of shape {list(view.shape)[:8]}")
    extent = 1 + sum((length - 1) * step for length, step in zip(view.shape, view.strides)) if math.prod(view.shape) else 0
    if (view.offset + extent) * item > size:
        raise ValueError(f"a tensor of shape {list(view.shape)[:8]} reaches beyond its storage of {size} bytes")
    if math.prod(view.shape) * item > size:
        raise ValueError(f"a tensor of shape {list(view.shape)[:8]} repeats its storage of {size} bytes")
    contiguous = tuple(int(x) for x in np.cumprod((1, *view.shape[:0:-1]))[::-1]) if view.shape else ()
    plain = all(length == 1 or step == expected for length, step, expected in zip(view.shape, view.strides, contiguous))
    return in_file(path, offset + view.offset * item, view.shape, dtype, None if plain else view.strides)
