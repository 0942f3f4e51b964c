"""From JAX's primitives to ONNX's operators: the program of a graph, traced by JAX and written down again node by node.

Shapes are fixed, so whatever depends on shapes alone is computed here and stored. Only primitives that the models use are
known; another one is an error that names it.
"""

import math

import jax
import numpy as np
from jax.extend.core import Literal

from champ_jax.errors import UserError
from champ_jax.export.graphs import Graph
from champ_jax.export.onnx_builder import Builder, Value, constant

FOLD = 1 << 20
"""Numbers that a constant computed here has at most."""


def to_model(graph: Graph, precision: str = "f32"):
    """The onnx.ModelProto of a graph; precision: what its weights are stored as, int8 with scales by output channel.

    Raises UserError for a primitive that is not known here.
    """
    closed = jax.make_jaxpr(graph.function)(graph.params, graph.inputs)
    builder = Builder(precision)
    inputs = {
        name: Value(tuple(x.shape), np.dtype(x.dtype), tuple(x.shape), name) for name, x in sorted(graph.inputs.items())
    }  # JAX takes dictionaries apart in the order of their keys
    params = [constant(np.asarray(array), name) for name, array in sorted(graph.params.items())]
    found = run(builder, closed.jaxpr, [constant(np.asarray(x)) for x in closed.consts], [*params, *inputs.values()])
    return builder.finish(graph.name, inputs, dict(zip(sorted(graph.outputs), found)))


def run(builder: Builder, jaxpr, consts: list[Value], arguments: list[Value]) -> list[Value]:
    """Adds a jaxpr's equations to the graph; returns its outputs."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments]))
    read = lambda x: constant(np.asarray(x.val, x.aval.dtype)) if isinstance(x, Literal) else known[x]  # noqa: E731
    for equation in jaxpr.eqns:
        results = _equation(builder, equation, [read(x) for x in equation.invars])
        known.update(zip(equation.outvars, results))
    return [read(x) for x in jaxpr.outvars]


def _equation(builder: Builder, equation, inputs: list[Value]) -> list[Value]:
    name, params = equation.primitive.name, equation.params
    shapes = [tuple(x.aval.shape) for x in equation.outvars]
    if name == "platform_index":
        return [constant(np.zeros((), np.int32))]
    if name == "iota":
        return [constant(np.asarray(equation.primitive.bind(**params)))]
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    if name == "cond" and params.get("branches_platforms"):
        # The last branch is for all platforms that have none of their own.
        inner, inputs = params["branches"][-1], inputs[1:]
    if inner is not None and name != "scan":
        closed = inner if hasattr(inner, "consts") else None
        consts = [constant(np.asarray(x)) for x in closed.consts] if closed else []
        return run(builder, closed.jaxpr if closed else inner, consts, inputs)
    if name not in OPS and name not in SHAPES:
        raise UserError(f"this model uses {name}, which ONNX export does not know; export it as stablehlo")
    if name not in SHAPES and all(x.array is not None and x.label is None for x in inputs) and sum(map(math.prod, shapes)) <= FOLD:
        found = equation.primitive.bind(*(np.broadcast_to(x.array, x.shape) for x in inputs), **params)
        return [constant(np.asarray(x)) for x in (found if equation.primitive.multiple_results else [found])]
    result = (OPS.get(name) or SHAPES[name])(builder, equation, *inputs)
    return result if isinstance(result, list) else [result]


def _out(equation) -> tuple[tuple[int, ...], np.dtype]:
    aval = equation.outvars[0].aval
    return tuple(aval.shape), np.dtype(aval.dtype)


# ---- Number by number ----


def _pointwise(op: str):
    """An operator of one to three arrays that broadcasts as NumPy does."""

    def add(builder: Builder, equation, *inputs: Value) -> Value:
        shape, dtype = _out(equation)
        rank = len(shape)
        inputs = [builder.reshape(x, (1,) * rank) if x.shape == () and rank and x.array is None else x for x in inputs]
        held = np.broadcast_shapes(*(x.held for x in inputs), (1,) * rank)
        return builder.node(op, inputs, shape, dtype, held)

    return add


def _then(builder: Builder, op: str, *inputs: Value) -> Value:
    """A further operator, of its last input's type."""
    shape, held = (np.broadcast_shapes(*sizes) for sizes in ([x.shape for x in inputs], [x.held for x in inputs]))
    return builder.node(op, inputs, shape, inputs[-1].dtype, held)


def _scalar(value, like: Value) -> Value:
    return constant(np.asarray(value, like.dtype))


def _power(builder, equation, x: Value) -> Value:
    exponent = equation.params.get("y", 2)
    if exponent in (2, 3):
        squared = _then(builder, "Mul", x, x)
        return squared if exponent == 2 else _then(builder, "Mul", squared, x)
    return _then(builder, "Pow", x, _scalar(exponent, x))


def _not_equal(builder, equation, x: Value, y: Value) -> Value:
    return _then(builder, "Not", _pointwise("Equal")(builder, equation, x, y))


def _select(builder, equation, which: Value, no: Value, yes: Value) -> Value:
    return _pointwise("Where")(builder, equation, which, yes, no)


def _clamp(builder, equation, low: Value, x: Value, high: Value) -> Value:
    return _pointwise("Min")(builder, equation, _pointwise("Max")(builder, equation, x, low), high)


def _same(builder, equation, x: Value) -> Value:
    return x


# ---- Over axes ----


def _reduce(op: str):
    def add(builder: Builder, equation, x: Value) -> Value:
        shape, dtype = _out(equation)
        x = builder.whole(x)
        as_number = builder.cast(x, np.float32) if dtype == np.bool_ else x  # any and all are the maximum and the minimum
        axes = builder.ints(equation.params["axes"])
        return builder.cast(builder.node(op, [as_number, axes], shape, as_number.dtype, keepdims=0), dtype)

    return add


def _argmax(builder, equation, x: Value) -> Value:
    shape, dtype = _out(equation)
    number = builder.cast(builder.whole(x), np.float32)
    return builder.cast(builder.node("ArgMax", [number], shape, np.int64, axis=equation.params["axes"][0], keepdims=0), dtype)


def _running(builder, equation, x: Value) -> Value:
    if x.shape[equation.params["axis"]] != 1:
        raise UserError(f"this model uses {equation.primitive.name} over more than one number, which ONNX export does not know")
    return x


def _dot(builder: Builder, equation, x: Value, y: Value) -> Value:
    """dot_general as MatMul: batch axes first, then rows, then columns."""
    shape, dtype = _out(equation)
    (x_sum, y_sum), (x_batch, y_batch) = equation.params["dimension_numbers"]
    if y.label is not None and not x_batch and len(y.shape) == 2 and len(x_sum) == 1 and x_sum[0] == len(x.shape) - 1:
        # A layer's weight: any leading axes of the input will do.
        matrix = builder.transpose(y, (y_sum[0], 1 - y_sum[0]))
        found = builder.node("MatMul", [builder.whole(x), builder.weight(matrix, 1)], shape, x.dtype)
        return builder.cast(found, dtype)
    x_free = [axis for axis in range(len(x.shape)) if axis not in (*x_sum, *x_batch)]
    y_free = [axis for axis in range(len(y.shape)) if axis not in (*y_sum, *y_batch)]
    lengths = lambda value, axes: math.prod([value.shape[axis] for axis in axes])  # noqa: E731
    batch = tuple(x.shape[axis] for axis in x_batch)
    left = builder.transpose(builder.whole(x), (*x_batch, *x_free, *x_sum))
    right = builder.transpose(builder.whole(y), (*y_batch, *y_sum, *y_free))
    left = builder.reshape(left, (*batch, lengths(x, x_free), lengths(x, x_sum)))
    right = builder.reshape(right, (*batch, lengths(y, y_sum), lengths(y, y_free)))
    found = builder.node("MatMul", [left, right], (*batch, lengths(x, x_free), lengths(y, y_free)), x.dtype)
    return builder.cast(builder.reshape(found, shape), dtype)


def _conv(builder: Builder, equation, x: Value, kernel: Value) -> Value:
    params, (shape, dtype) = equation.params, _out(equation)
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
        raise UserError("this model uses transposed convolutions, which ONNX export does not know")
    numbers = params["dimension_numbers"]
    first = builder.transpose(builder.whole(x), numbers.lhs_spec)
    weight = builder.weight(builder.transpose(kernel, numbers.rhs_spec), 0)
    before, after = zip(*params["padding"])
    found = builder.node(
        "Conv", [first, weight], [shape[axis] for axis in numbers.out_spec], x.dtype, group=params["feature_group_count"],
        strides=list(params["window_strides"]), dilations=list(params["rhs_dilation"]), pads=[*before, *after],
    )  # fmt: skip
    return builder.cast(builder.transpose(found, np.argsort(numbers.out_spec).tolist()), dtype)


# ---- Parts and places ----


def _slice(builder: Builder, equation, x: Value) -> Value:
    params, (shape, dtype) = equation.params, _out(equation)
    axes = range(len(shape))
    bounds = [params["start_indices"], params["limit_indices"], axes, params["strides"] or [1] * len(shape)]
    return builder.node("Slice", [builder.whole(x), *map(builder.ints, bounds)], shape, dtype)


def _split(builder: Builder, equation, x: Value) -> list[Value]:
    outputs = [(tuple(out.aval.shape), out.aval.dtype) for out in equation.outvars]
    sizes = builder.ints(equation.params["sizes"])
    return builder.nodes_of("Split", [builder.whole(x), sizes], outputs, axis=equation.params["axis"])


def _concatenate(builder: Builder, equation, *inputs: Value) -> Value:
    shape, dtype = _out(equation)
    there = [builder.whole(x) for x in inputs if math.prod(x.shape)]  # padding by nothing leaves empty parts, which ONNX cannot expand to
    return builder.node("Concat", there, shape, dtype, axis=equation.params["dimension"])


def _stack(builder: Builder, equation, *inputs: Value) -> Value:
    (shape, dtype), axis = _out(equation), equation.params["axis"]
    rows = [builder.reshape(builder.whole(x), (*shape[:axis], 1, *shape[axis + 1 :])) for x in inputs]
    return builder.node("Concat", rows, shape, dtype, axis=axis)


def _pad(builder: Builder, equation, x: Value, filler: Value) -> Value:
    before, after, between = zip(*equation.params["padding_config"])
    if any(between) or min(*before, *after) < 0:
        raise UserError("this model pads between numbers, which ONNX export does not know")
    return builder.node("Pad", [builder.whole(x), builder.ints([*before, *after]), filler], *_out(equation))


def _gather(builder: Builder, equation, x: Value, index: Value) -> Value:
    """Rows of a table, or places along axes of length one, where there is nothing to choose."""
    (shape, dtype), numbers = _out(equation), equation.params["dimension_numbers"]
    if math.prod(x.shape) == math.prod(shape) and all(x.shape[axis] == 1 for axis in numbers.start_index_map):
        return builder.reshape(x, shape)
    axis = numbers.start_index_map[0]
    rows = tuple(length for i, length in enumerate(x.shape) if i != axis)
    if (
        numbers.start_index_map != (axis,)
        or numbers.collapsed_slice_dims != (axis,)
        or math.prod(equation.params["slice_sizes"]) != math.prod(rows)
    ):
        raise UserError("this model picks out single numbers by an index, which ONNX export does not know")
    index = builder.reshape(builder.whole(index), index.shape[:-1])
    return builder.node("Gather", [builder.whole(x), index], shape, dtype, axis=axis)


def _scan(builder: Builder, equation, *inputs: Value) -> list[Value]:
    """A loop of fixed length, written out: attention over chunks of many queries."""
    params, closed = equation.params, equation.params["jaxpr"]
    if params["reverse"]:
        raise UserError("this model loops backwards, which ONNX export does not know")
    # What the body sees a part of has an axis more outside. JAX's own counts of them are not named alike in 0.10 and 0.12.
    sliced = sum(outer.aval.ndim > inner.aval.ndim for outer, inner in zip(equation.invars, closed.jaxpr.invars))
    carried = sum(outer.aval.ndim == inner.aval.ndim for outer, inner in zip(equation.outvars, closed.jaxpr.outvars))
    fixed = len(inputs) - carried - sliced
    carry, rows = list(inputs[fixed : fixed + carried]), []
    for step in range(params["length"]):
        parts = []
        for x in map(builder.whole, inputs[fixed + carried :]):
            bounds = [builder.ints([number]) for number in (step, step + 1, 0)]
            part = builder.node("Slice", [x, *bounds], (1, *x.shape[1:]), x.dtype)
            parts.append(builder.reshape(part, x.shape[1:]))
        consts = [constant(np.asarray(x)) for x in closed.consts]
        found = run(builder, closed.jaxpr, consts, [*inputs[:fixed], *carry, *parts])
        carry = found[:carried]
        rows.append([builder.reshape(builder.whole(x), (1, *x.shape)) for x in found[carried:]])
    stacked = [builder.node("Concat", column, (len(column), *column[0].shape[1:]), column[0].dtype, axis=0) for column in zip(*rows)]
    return [*carry, *stacked]


def _reshape(builder: Builder, equation, x: Value) -> Value:
    return builder.reshape(x, _out(equation)[0])


def _transpose(builder: Builder, equation, x: Value) -> Value:
    return builder.transpose(x, equation.params["permutation"])


def _cast(builder: Builder, equation, x: Value) -> Value:
    return builder.cast(x, equation.params["new_dtype"])


def _broadcast(builder: Builder, equation, x: Value) -> Value:
    """Axes of length one where new ones come; they are repeated only if somebody needs that."""
    shape, axes = _out(equation)[0], equation.params["broadcast_dimensions"]
    ones, held = [1] * len(shape), [1] * len(shape)
    for axis, length, there in zip(axes, x.shape, x.held):
        ones[axis], held[axis] = length, there
    found = builder.reshape(x, ones)
    return Value(shape, found.dtype, tuple(held) if found.held != found.shape else found.held, found.name, found.array, found.label)


def _tile(builder: Builder, equation, x: Value) -> Value:
    """Each axis as often as `reps` says: a new axis before it that is repeated, and both made one."""
    reps = equation.params["reps"]
    apart = builder.reshape(x, [length for size in x.shape for length in (1, size)])
    shape = tuple(length for size, times in zip(x.shape, reps) for length in (times, size))
    return builder.reshape(Value(shape, apart.dtype, apart.held, apart.name, apart.array, apart.label), _out(equation)[0])


SHAPES = {
    "reshape": _reshape, "squeeze": _reshape, "expand_dims": _reshape, "transpose": _transpose, "broadcast_in_dim": _broadcast,
    "convert_element_type": _cast, "copy": _same, "copy_p": _same, "stop_gradient": _same, "scan": _scan,
}  # fmt: skip
"""What parameters of the model may pass through and stay parameters."""
OPS = {
    **{name: _pointwise(op) for name, op in {
        "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "pow": "Pow", "and": "And", "or": "Or",
        "eq": "Equal", "gt": "Greater", "lt": "Less", "ge": "GreaterOrEqual", "le": "LessOrEqual", "not": "Not", "exp": "Exp",
        "log": "Log", "sin": "Sin", "cos": "Cos", "tanh": "Tanh", "sqrt": "Sqrt", "abs": "Abs", "neg": "Neg", "sign": "Sign",
        "floor": "Floor", "ceil": "Ceil", "round": "Round", "logistic": "Sigmoid", "erf": "Erf",
    }.items()},
    "tile": _tile,
    **{name: _reduce(op) for name, op in {
        "reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin", "reduce_or": "ReduceMax",
        "reduce_and": "ReduceMin",
    }.items()},
    "rsqrt": lambda builder, equation, x: _then(builder, "Reciprocal", _then(builder, "Sqrt", x)),
    "erfc": lambda builder, equation, x: _then(builder, "Sub", _scalar(1, x), _then(builder, "Erf", x)),
    "square": _power, "integer_pow": _power, "ne": _not_equal, "select_n": _select, "clamp": _clamp,
    "argmax": _argmax, "cummax": _running, "cummin": _running, "dot_general": _dot, "conv_general_dilated": _conv,
    "slice": _slice, "split": _split, "concatenate": _concatenate, "stack": _stack, "pad": _pad, "gather": _gather,
}  # fmt: skip
