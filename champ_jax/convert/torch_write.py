"""Writes state dicts as `torch.save` does, without PyTorch."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from champ_jax.checkpoint.tensors import LazyArray, is_floating, lazy
from champ_jax.convert.torch_file import STORAGES
from champ_jax.errors import UserError
from champ_jax.files import atomic_file

CLASSES = {np.dtype(dtype): f"{name}Storage" for name, dtype in STORAGES.items() if name != "Untyped"}


def write_torch(path: Path, state: Mapping[str, LazyArray], dtype: Any = None) -> None:
    """Writes {name: array} as a dict of tensors; the file appears under its name only when it is whole.

    Args:
      path: where to.
      state: name to array, read one at a time.
      dtype: what floating-point tensors are stored as; as they come by default.

    Raises:
      UserError: a dtype that the format does not know (8-bit floats).
    """
    arrays = {name: lazy(array) for name, array in state.items()}
    stored = {name: np.dtype(dtype) if dtype is not None and is_floating(array.dtype) else array.dtype for name, array in arrays.items()}
    unknown = sorted({str(kind) for kind in stored.values()} - {str(kind) for kind in CLASSES})
    if unknown:
        raise UserError(f"{path}: the format of PyTorch's files has no {', '.join(unknown)}: write safetensors or give a dtype.")
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", _pickle({name: (stored[name], array.shape) for name, array in arrays.items()}))
        archive.writestr("archive/byteorder", "little")
        for number, (name, array) in enumerate(arrays.items()):
            values = np.ascontiguousarray(np.asarray(array).astype(stored[name], copy=False))
            with archive.open(f"archive/data/{number}", "w", force_zip64=True) as member:
                member.write(values.reshape(-1).view(np.uint8).data)
        archive.writestr("archive/version", "3\n")


def _pickle(described: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> bytes:
    """A dict of tensors: each a call of `_rebuild_tensor_v2` on storage 0, 1, ..., in pickle's protocol 2."""
    parts = [b"\x80\x02}("]
    for number, (name, (dtype, shape)) in enumerate(described.items()):
        count = int(np.prod(shape, dtype=np.int64))
        strides = [int(x) for x in np.cumprod((1, *shape[:0:-1]), dtype=np.int64)[::-1]] if shape else []
        storage = b"(" + _text("storage") + _global("torch", CLASSES[dtype]) + _text(str(number)) + _text("cpu") + _number(count) + b"tQ"
        hooks = _global("collections", "OrderedDict") + b")R"
        parts += [
            _text(name), _global("torch._utils", "_rebuild_tensor_v2"), b"(", storage, _number(0),
            _numbers(shape), _numbers(strides), b"\x89", hooks, b"tR",
        ]  # fmt: skip
    return b"".join([*parts, b"u."])


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _number(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _numbers(values) -> bytes:
    return b"(" + b"".join(_number(value) for value in values) + b"t"
