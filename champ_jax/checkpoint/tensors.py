"""Arrays that stay in their file until they are needed, and the safetensors format, one tensor in memory at a time."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from champ_jax.errors import UserError
from champ_jax.files import atomic_file

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
"""safetensors' names of dtypes."""
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
MAX_HEADER = 8 << 20
"""Bytes of a header. A full set of CHAMP's weights needs 0.3 MB; decoding JSON takes many times its size in memory."""


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """An array of known shape and dtype that is made when it is asked for, as by `np.asarray`, and not kept."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        array = self.make()
        return array if dtype is None else array.astype(dtype, copy=False)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def map(self, function: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> LazyArray:
        """This array after `function`, which gives it `shape` and leaves its dtype."""
        return LazyArray(tuple(shape), self.dtype, lambda: function(self.make()))

    def astype(self, dtype: Any) -> LazyArray:
        """This array in another dtype."""
        return LazyArray(self.shape, np.dtype(dtype), lambda: self.make().astype(dtype, copy=False))


def lazy(array: Any) -> LazyArray:
    """Any array as a LazyArray."""
    return array if isinstance(array, LazyArray) else LazyArray(tuple(array.shape), np.dtype(array.dtype), lambda: np.asarray(array))


def in_file(path: Path, offset: int, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...] | None = None) -> LazyArray:
    """An array at byte `offset` of a file; `strides` are in elements, contiguous rows by default.

    The caller has checked that the file is long enough.
    """
    dtype = np.dtype(dtype)

    def make():
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        extent = math.prod(shape)
        if strides is not None:
            extent = 1 + sum((length - 1) * step for length, step in zip(shape, strides))
        flat = np.memmap(path, dtype, "r", offset, extent)
        if strides is None:
            return flat.reshape(shape)
        return np.lib.stride_tricks.as_strided(flat, shape, [step * dtype.itemsize for step in strides], writeable=False)

    return LazyArray(tuple(shape), dtype, make)


def read_safetensors(path: str | Path) -> tuple[dict[str, LazyArray], dict[str, str]]:
    """Reads the header of a safetensors file, and no tensor.

    Returns:
      (name to array, the header's metadata).

    Raises:
      UserError: not such a file; a header too long, damaged, or describing tensors that overlap, leave gaps, do not fit
        their shapes or lie outside the file.
    """
    path = Path(path)
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(total - 8, MAX_HEADER):
                raise ValueError(f"its header claims {length} bytes; the file has {total} and headers at most {MAX_HEADER}")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is not a table of tensors")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is not a table")
        spans = {name: _span(name, entry, total - 8 - length) for name, entry in header.items()}
        _check_cover(spans, total - 8 - length)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error or type(error).__name__}. Copy or make it again.") from error
    arrays = {name: in_file(path, 8 + length + begin, shape, dtype) for name, (begin, _, shape, dtype) in spans.items()}
    return arrays, {str(key): str(value) for key, value in metadata.items()}


def _span(name: str, entry: Any, size: int) -> tuple[int, int, tuple[int, ...], np.dtype]:
    """(begin, end, shape, dtype) of a header's entry; ValueError when it does not make sense."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name[:80]!r} needs exactly dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise ValueError(f"tensor {name[:80]!r} has the unknown dtype {str(entry['dtype'])[:20]!r}")
    for key, length in (("shape", None), ("data_offsets", 2)):
        values = entry[key]
        if not isinstance(values, list) or not all(type(x) is int and 0 <= x < 1 << 63 for x in values):
            raise ValueError(f"tensor {name[:80]!r}: {key} must be whole numbers")
        if (length and len(values) != length) or len(values) > 32:
            raise ValueError(f"tensor {name[:80]!r}: {key} has {len(values)} numbers")
    dtype = np.dtype(DTYPES[entry["dtype"]])
    begin, end = entry["data_offsets"]
    expected = math.prod(entry["shape"]) * dtype.itemsize
    if end - begin != expected or end > size:
        raise ValueError(f"tensor {name[:80]!r} lies at bytes {begin} to {end} of {size}, but its shape needs {expected}")
    return begin, end, tuple(entry["shape"]), dtype


def _check_cover(spans: Mapping[str, tuple], size: int) -> None:
    """Tensors must follow each other from the first byte of data to the last."""
    at = 0
    for begin, end, name in sorted((begin, end, name) for name, (begin, end, *_) in spans.items()):
        if begin != at:
            raise ValueError(f"tensor {name[:80]!r} begins at byte {begin} of the data, but the one before ends at {at}")
        at = end
    if at != size:
        raise ValueError(f"its tensors end at byte {at} of the data, and the data at {size}")


def write_safetensors(path: str | Path, arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None, dtype: Any = None) -> None:
    """Writes arrays one after the other; the file appears under its name only when it is whole.

    Args:
      path: where to.
      arrays: name to anything array-like, LazyArrays included.
      metadata: text for the header.
      dtype: what floating-point arrays are stored as; as they come by default.
    """
    path = Path(path)
    entries = {name: lazy(array) for name, array in arrays.items()}
    stored = {name: np.dtype(dtype) if dtype is not None and is_floating(entry.dtype) else entry.dtype for name, entry in entries.items()}
    # Wide dtypes first, as the format's own library writes, so that every tensor is aligned.
    order = sorted(entries, key=lambda name: (-stored[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {str(k): str(v) for k, v in metadata.items()}} if metadata else {}
    at = 0
    for name in order:
        end = at + entries[name].size * stored[name].itemsize
        header[name] = {"dtype": NAMES[stored[name]], "shape": list(entries[name].shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            array = np.asarray(entries[name]).astype(stored[name], copy=False)
            if array.shape != entries[name].shape:
                raise ValueError(f"{name}: made with shape {array.shape}, announced as {entries[name].shape}")
            # Through bytes: files do not take every dtype's buffer.
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def is_floating(dtype: np.dtype) -> bool:
    """Whether a dtype of a file is a floating-point one, of any width."""
    return NAMES[dtype].startswith(("F", "BF"))
