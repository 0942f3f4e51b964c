"""An ONNX graph as it grows: values, constants and weights, nodes, and at the end what of them is needed."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from champ_jax.nn.quantised import to_eight_bits

OPSET, IR_VERSION = 18, 9
MIN_INT8 = 1024
"""Numbers that a weight has at least to be worth its scales."""


@dataclasses.dataclass(eq=False)
class Value:
    """An array of the program: `shape` as JAX has it, and where it is in the ONNX graph.

    held: the shape it has there, of the same rank; ones where `shape` repeats it, which most of ONNX's operators do by themselves.
    array: of constants. label: of the model's parameters, their path. name: in the graph; None for constants not used yet.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    held: tuple[int, ...]
    name: str | None = None
    array: np.ndarray | None = None
    label: str | None = None


def constant(array: np.ndarray, label: str | None = None) -> Value:
    """A constant, or with a label a parameter of the model."""
    array = np.asarray(array)
    return Value(array.shape, array.dtype, array.shape, array=array, label=label)


class Builder:
    """Collects nodes; every method that adds one returns the Value of its output.

    precision: what weights are stored as, f32, f16 or int8.
    """

    def __init__(self, precision: str = "f32"):
        self.nodes: list = []
        self.constants: dict[str, np.ndarray] = {}
        self.precision = precision
        self._named: dict = {}
        self._count = 0

    def name(self, value: Value) -> str:
        """The value's name in the graph; constants enter it here."""
        if value.name is None:
            # Small tables come again and again, and a parameter wherever it is read.
            key = (value.label, value.array.shape, value.array.dtype.str, hashlib.sha256(value.array.tobytes()).digest())
            if key not in self._named:
                wanted = value.label or f"constant_{len(self._named)}"
                while wanted in self.constants:
                    wanted += "+"
                self.constants[wanted] = value.array
                self._named[key] = wanted
            value.name = self._named[key]
        return value.name

    def node(self, op: str, inputs: Sequence[Value], shape: Sequence[int], dtype, held: Sequence[int] | None = None, **attributes) -> Value:
        """One node with one output; `held` where that is not all of `shape`."""
        value = self.nodes_of(op, inputs, [(shape if held is None else held, dtype)], **attributes)[0]
        value.shape = tuple(shape)
        return value

    def nodes_of(self, op: str, inputs: Sequence[Value], outputs: Sequence[tuple], **attributes) -> list[Value]:
        """One node with several outputs, given as (shape, dtype)."""
        from onnx import helper

        names = [self.fresh(op) for _ in outputs]
        self.nodes.append(helper.make_node(op, [self.name(value) for value in inputs], names, name=names[0], **attributes))
        return [Value(tuple(shape), np.dtype(dtype), tuple(shape), name) for name, (shape, dtype) in zip(names, outputs)]

    def fresh(self, op: str) -> str:
        """A name that no value has."""
        self._count += 1
        return f"{op}_{self._count}"

    def ints(self, numbers: Sequence[int]) -> Value:
        """An int64 constant."""
        return constant(np.asarray(list(numbers), np.int64))

    def whole(self, value: Value) -> Value:
        """The value with its repetitions there."""
        if value.held == value.shape:
            return value
        held = dataclasses.replace(value, shape=value.held)
        return self.node("Expand", [held, self.ints(value.shape)], value.shape, value.dtype)

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """Another shape of as many numbers."""
        shape = tuple(shape)
        if shape == value.shape:
            return value
        if without_ones(shape) == without_ones(value.shape) and value.held != value.shape:
            # Repeated axes stay repeated: only axes of length one come and go.
            lengths = iter(length for length, full in zip(value.held, value.shape) if full != 1)
            held = tuple(1 if length == 1 else next(lengths) for length in shape)
            return dataclasses.replace(self._shaped(dataclasses.replace(value, shape=value.held), held), shape=shape)
        return self._shaped(self.whole(value), shape)

    def _shaped(self, value: Value, shape: tuple[int, ...]) -> Value:
        if value.array is not None:
            return constant(value.array.reshape(shape), value.label)
        return value if shape == value.shape else self.node("Reshape", [value, self.ints(shape)], shape, value.dtype)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """Axes in another order."""
        order = tuple(order)
        if order == tuple(range(len(order))):
            return value
        shape, held = (tuple(sizes[axis] for axis in order) for sizes in (value.shape, value.held))
        if value.array is not None:
            return dataclasses.replace(constant(np.ascontiguousarray(value.array.transpose(order)), value.label), shape=shape)
        moved = self.node("Transpose", [value], held, value.dtype, perm=list(order))
        return dataclasses.replace(moved, shape=shape)

    def cast(self, value: Value, dtype) -> Value:
        """Numbers of another type; a parameter is stored in it."""
        dtype = np.dtype(dtype)
        if dtype == value.dtype:
            return value
        if value.array is not None:
            return dataclasses.replace(constant(value.array.astype(dtype), value.label), shape=value.shape)
        from onnx import helper

        done = self.node("Cast", [value], value.held, dtype, to=helper.np_dtype_to_tensor_dtype(dtype))
        return dataclasses.replace(done, shape=value.shape)

    def weight(self, value: Value, axis: int) -> Value:
        """A factor whose output channels are along `axis`; a parameter is stored in the precision and brought back here."""
        if self.precision == "f32" or value.label is None or value.array.size < MIN_INT8 or value.array.ndim < 2:
            return value
        if self.precision == "f16":
            return value if value.dtype == np.float16 else self._from_half(value)
        values, scale = to_eight_bits(np.moveaxis(value.array, axis, -1))
        values = np.ascontiguousarray(np.moveaxis(values, -1, axis))
        parts = [constant(values, value.label), constant(scale.astype(value.dtype), f"{value.label}.scale")]
        return self.node("DequantizeLinear", parts, value.shape, value.dtype, axis=axis)

    def _from_half(self, value: Value) -> Value:
        from onnx import TensorProto

        return self.node("Cast", [self.cast(value, np.float16)], value.shape, value.dtype, to=TensorProto.FLOAT)

    def finish(self, name: str, inputs: dict[str, Value], outputs: dict[str, Value]):
        """The model, of what reaches an output; outputs take their names here."""
        from onnx import helper, numpy_helper

        for output, value in outputs.items():
            self.nodes.append(helper.make_node("Identity", [self.name(self.whole(value))], [output], name=f"output {output}"))
        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                kept.append(node)
        describe = lambda values: [  # noqa: E731
            helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape) for key, value in values.items()
        ]
        weights = [numpy_helper.from_array(array, key) for key, array in self.constants.items() if key in needed]
        graph = helper.make_graph(kept[::-1], name, describe(inputs), describe(outputs), weights)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="champ_jax")


def without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """The lengths that are not one."""
    return tuple(length for length in shape if length != 1)
