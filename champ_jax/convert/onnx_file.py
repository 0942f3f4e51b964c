"""ONNX files: the graph as it stands in the file, and its tensors, which stay there until they are needed."""

from __future__ import annotations

import dataclasses
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from champ_jax.checkpoint.tensors import LazyArray, in_file
from champ_jax.convert.protobuf import FIXED32, SPAN, STRIDE, VARINT, Field, Wire, signed
from champ_jax.errors import UserError

DTYPES = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_,
    10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64, 16: ml_dtypes.bfloat16,
}  # fmt: skip
"""ONNX's numbers of dtypes."""
MAX_RANK = 32
OBJECT = 15
"""What a node, a tensor or an attribute costs from the budget of fields, for the memory that it takes however short it is."""

# Field numbers and storage of ONNX's messages, those that are read.
_MODEL = {7: (SPAN,)}
_GRAPH = {1: (SPAN,), 5: (SPAN,), 11: (SPAN,), 12: (SPAN,), 15: (SPAN,)}
_NODE = {1: (SPAN,), 2: (SPAN,), 4: (SPAN,), 5: (SPAN,)}
_ATTRIBUTE = {
    1: (SPAN,), 2: (FIXED32,), 3: (VARINT,), 4: (SPAN,), 5: (SPAN,), 6: (SPAN,),
    7: (SPAN, FIXED32), 8: (SPAN, VARINT), 9: (SPAN,), 11: (SPAN,),
}  # fmt: skip
_TENSOR = {
    1: (SPAN, VARINT), 2: (VARINT,), 3: (SPAN,), 4: (SPAN, FIXED32), 5: (SPAN, VARINT), 6: (SPAN,), 7: (SPAN, VARINT),
    8: (SPAN,), 9: (SPAN,), 10: (SPAN,), 11: (SPAN, VARINT), 13: (SPAN,), 14: (VARINT,),
}  # fmt: skip
_VALUE = {1: (SPAN,)}


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation of a graph. attributes: name to number, text, list of them, or LazyArray."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class OnnxFile:
    """initialisers: name to array, not read yet. nodes: in the file's order. inputs: what the graph is given, without the
    initialisers that older files list there too. outputs: what it gives."""

    initialisers: dict[str, LazyArray]
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_onnx(path: str | Path) -> OnnxFile:
    """Reads the graph of an ONNX file, and no tensor.

    Raises:
      UserError: not such a file, or damaged; tensors kept in other files or in a way that networks' weights are not;
        a graph within the graph, as loops and conditions have it.
    """
    path = Path(path)
    try:
        if not path.stat().st_size:
            raise ValueError("it is empty")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, Wire(data)).model(len(data))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as ONNX: {error}. Copy it again, or export it anew.") from error


class _Reader:
    """The messages of ONNX, each by the one it lies in."""

    def __init__(self, path: Path, wire: Wire):
        self.path = path
        self.wire = wire

    def model(self, size: int) -> OnnxFile:
        graphs = list(self.wire.fields(0, size, _MODEL))
        if len(graphs) != 1:
            raise ValueError(f"it holds {len(graphs)} graphs and should hold one")
        initialisers: dict[str, LazyArray] = {}
        nodes, inputs, outputs = [], [], []
        for field in self.wire.fields(graphs[0].begin, graphs[0].end, _GRAPH):
            if field.number == 1:
                nodes.append(self.node(field))
            elif field.number == 5:
                name, array = self.tensor(field)
                if not name or name in initialisers:
                    raise ValueError(f"the tensor at byte {field.begin} has {'the name of another' if name else 'no name'}")
                initialisers[name] = array
            elif field.number == 15:
                raise ValueError("it has sparse tensors, which no supported network has")
            else:
                names = [self.wire.text(part) for part in self.wire.fields(field.begin, field.end, _VALUE)]
                (inputs if field.number == 11 else outputs).extend(names)
        given = tuple(name for name in inputs if name not in initialisers)
        return OnnxFile(initialisers, tuple(nodes), given, tuple(outputs))

    def node(self, field: Field) -> Node:
        self.wire.spend(OBJECT)
        inputs, outputs, op_type, attributes = [], [], "", {}
        for part in self.wire.fields(field.begin, field.end, _NODE):
            if part.number == 5:
                name, value = self.attribute(part)
                attributes[name] = value
            elif part.number == 4:
                op_type = self.wire.text(part)
            else:
                (inputs if part.number == 1 else outputs).append(self.wire.text(part))
        return Node(op_type, tuple(inputs), tuple(outputs), attributes)

    def attribute(self, field: Field) -> tuple[str, Any]:
        self.wire.spend(OBJECT)
        name, values = "", {}
        for part in self.wire.fields(field.begin, field.end, _ATTRIBUTE):
            if part.number in (6, 11):
                raise ValueError(f"the attribute at byte {field.begin} holds another graph, which no supported network has")
            if part.number == 1:
                name = self.wire.text(part)
            elif part.number in (7, 8, 9):
                values.setdefault(part.number, []).extend(self.items(part))
            else:
                values[part.number] = self.item(part)
        if len(values) > 1:
            raise ValueError(f"the attribute {name[:80]!r} at byte {field.begin} has values of several kinds")
        return name, next(iter(values.values()), None)

    def item(self, part: Field) -> Any:
        """The value of an attribute of one value."""
        if part.number == 2:
            return self.wire.floats(part)[-1]
        if part.number == 3:
            return signed(part.value)
        return self.wire.text(part) if part.number == 4 else self.tensor(part)[1]

    def items(self, part: Field) -> list:
        """The values that one field of an attribute of several adds."""
        if part.number == 9:
            return [self.wire.text(part)]
        if part.number == 8:
            return self.wire.integers(part)
        return self.wire.floats(part)

    def tensor(self, field: Field) -> tuple[str, LazyArray]:
        """(name, array) of a tensor."""
        self.wire.spend(OBJECT)
        name, kind, dims, data = "", 0, [], []
        for part in self.wire.fields(field.begin, field.end, _TENSOR):
            if part.number == 1:
                dims += self.wire.integers(part)
            elif part.number == 2:
                kind = part.value
            elif part.number == 8:
                name = self.wire.text(part)
            elif part.number == 13 or part.number == 14 and part.value:
                raise ValueError(f"its tensors lie in other files (the one at byte {field.begin} does). Save it with its data inside")
            elif part.number != 14:
                data.append(part)
        title = f"the tensor {name[:80]!r} at byte {field.begin}"
        if kind not in DTYPES:
            raise ValueError(f"{title} is of dtype {kind}, which weights are not")
        if len(dims) > MAX_RANK or not all(0 <= length < 1 << 48 for length in dims):
            raise ValueError(f"{title} has no proper shape: {str(dims)[:80]}")
        return name, self.array(title, tuple(dims), np.dtype(DTYPES[kind]), data)

    def array(self, title: str, shape: tuple[int, ...], dtype: np.dtype, data: list[Field]) -> LazyArray:
        """The array whose elements are in these fields; ValueError unless it has exactly as many as its shape says."""
        count, numbers = math.prod(shape), {part.number for part in data}
        if numbers == {7} and dtype == np.int64:
            values = [value for part in data for value in self.wire.integers(part)]
            if len(values) != count:
                raise ValueError(f"{title} has {len(values)} elements, and its shape {shape} needs {count}")
            return LazyArray(shape, dtype, lambda: np.array(values, np.int64).reshape(shape))
        if not data and not count:
            return LazyArray(shape, dtype, lambda: np.zeros(shape, dtype))
        typed = {4: np.float32, 10: np.float64}
        if len(data) != 1 or any(number != 9 and typed.get(number) != dtype for number in numbers):
            fields = ", ".join(str(part.number) for part in data[:8]) or "none"
            raise ValueError(f"{title} should have its {dtype} elements in one piece of raw data; it has the fields {fields}")
        part = data[0]
        singly = part.kind == FIXED32
        size = 4 * part.count if singly else part.end - part.begin
        if size != count * dtype.itemsize:
            raise ValueError(f"{title} has {size} bytes, and its shape {shape} of {dtype} needs {count * dtype.itemsize}")
        if singly:
            raw = in_file(self.path, part.begin - 1, (count, STRIDE), np.uint8)
            return LazyArray(shape, dtype, lambda: raw.make()[:, 1:].copy().view("<f4").reshape(shape))
        # Protocol buffers align nothing.
        return in_file(self.path, part.begin, shape, dtype).map(lambda x: np.require(x, requirements="A"), shape)
