"""Floating-point operations of a traced function, counted operation by operation.

Compilers count the body of a loop once and what is recomputed as work; here loops count as often as they turn, and what the
backward pass recomputes is kept apart: MFU is of the model's own operations.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.interpreters import partial_eval

SUBLANES = 8
"""Rows that a matrix unit takes at once."""
FEW = 49
"""Positions in a convolution's window up to which they are a loop around the matrix product; beyond, they are summed over."""
RECOMPUTED = "rematted_computation"
"""What JAX calls the operations that a backward pass does again."""

BACKWARD = "transpose("
"""What JAX calls the operations of a backward pass."""


class Flops(NamedTuple):
    """FLOPs (2 for each multiplication and addition) of matrix products and convolutions.

    model: without recomputation. hardware: with it. padded: hardware, with dimensions rounded up to the matrix unit.
    recomputed_padded: the part of `padded` that is recomputation. loops: bytes that products inside loops read and write
    beyond the first turn, which the compiler does not count.
    """

    model: float = 0.0
    hardware: float = 0.0
    padded: float = 0.0
    recomputed_padded: float = 0.0
    loops: float = 0.0

    def add(self, other: "Flops", times: int = 1) -> "Flops":
        """The sum with `times` times the other."""
        return Flops(*(mine + times * its for mine, its in zip(self, other)))

    @property
    def ceiling(self) -> float:
        """The share of the peak that the model's own operations can reach, for padding alone."""
        return self.model / max(self.padded - self.recomputed_padded, 1.0)


def count(closed: ClosedJaxpr, unit: int) -> Flops:
    """Counts a traced function, without what does not reach its results; unit: width of the matrix unit."""
    return _count(_of_accelerators(closed.jaxpr), unit)


def _of_accelerators(jaxpr: Jaxpr) -> Jaxpr:
    """A function without what does not reach its results where, of each choice by platform, that for accelerators is taken."""
    jaxpr = _chosen(jaxpr)
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def _chosen(jaxpr: Jaxpr) -> Jaxpr:
    """A function whose choices by platform have the last branch alone, which is for all platforms that are not named."""

    def chosen(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(chosen(one) for one in value) if any(isinstance(one, (ClosedJaxpr, Jaxpr)) for one in value) else value
        if isinstance(value, ClosedJaxpr):
            return value.replace(jaxpr=_chosen(value.jaxpr))
        return _chosen(value) if isinstance(value, Jaxpr) else value

    equations = []
    for equation in jaxpr.eqns:
        params, operands = equation.params, equation.invars
        if params.get("branches_platforms"):
            params = {**params, "branches": (params["branches"][-1],)}
            operands = [Literal(np.int32(0), operands[0].aval), *operands[1:]]
        equations.append(equation.replace(invars=operands, params={name: chosen(value) for name, value in params.items()}))
    return jaxpr.replace(eqns=equations)


def kept(closed: ClosedJaxpr, parameters: int) -> float:
    """Bytes that the forward pass of a traced step leaves for the backward pass, over the whole batch.

    parameters: how many of the step's first arguments are its state; what follows from them alone is not counted.
    """
    jaxpr = _of_accelerators(closed.jaxpr)
    constant = set(jaxpr.invars[:parameters])
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan" and any(map(_backward, equation.params["jaxpr"].jaxpr.eqns)):
            inner = equation.params["jaxpr"].jaxpr
            return _left(inner, {v for v, outer in zip(inner.invars, equation.invars) if isinstance(outer, Literal) or outer in constant})
        if _follows(equation, constant):
            constant |= set(equation.outvars)
    return _left(jaxpr, set(jaxpr.invars[:parameters]))


def _backward(equation) -> bool:
    return BACKWARD in str(equation.source_info.name_stack)


def _follows(equation, constant: set) -> bool:
    return all(isinstance(v, Literal) or v in constant for v in equation.invars)


def _left(jaxpr: Jaxpr, constant: set) -> float:
    """Bytes of what is made before the first operation of the backward pass and read from there on."""
    backward = [_backward(equation) for equation in jaxpr.eqns]
    first = backward.index(True) if True in backward else len(backward)
    made = set(jaxpr.invars) - constant
    for equation in jaxpr.eqns[:first]:
        if _follows(equation, constant):
            constant |= set(equation.outvars)
        else:
            made |= set(equation.outvars)
    made -= set(jaxpr.invars)
    read = {v for equation in jaxpr.eqns[first:] for v in equation.invars if not isinstance(v, Literal)}
    return float(sum(v.aval.size * v.aval.dtype.itemsize for v in made & read))


def _count(jaxpr: Jaxpr, unit: int, again: bool = False) -> Flops:
    total = Flops()
    for equation in jaxpr.eqns:
        recomputed = again or RECOMPUTED in str(equation.source_info.name_stack)
        if equation.primitive.name == "dot_general":
            exact, padded = _dot(equation, unit)
        elif equation.primitive.name == "conv_general_dilated":
            exact, padded = _convolution(equation, unit)
        else:
            inner = [_count(one, unit, recomputed) for one in _inside(equation.params)]
            if equation.primitive.name == "cond":
                inner = [max(inner, key=lambda one: one.hardware)]
            turns = equation.params["length"] if equation.primitive.name == "scan" else 1
            for one in inner:
                total = total.add(one, turns)
            if turns > 1:
                total = total.add(Flops(loops=(turns - 1) * sum(_traffic(one) for one in _inside(equation.params))))
            continue
        total = total.add(Flops(0.0 if recomputed else exact, exact, padded, padded if recomputed else 0.0))
    return total


def _inside(params: dict[str, Any]) -> list[Jaxpr]:
    """The functions that an operation calls."""
    found = []
    for value in params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(one, ClosedJaxpr):
                found.append(one.jaxpr)
            elif isinstance(one, Jaxpr):
                found.append(one)
    return found


def _traffic(jaxpr: Jaxpr) -> float:
    """Bytes of operands and results of the products in a loop's body."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            total += sum(v.aval.size * v.aval.dtype.itemsize for v in (*equation.invars, *equation.outvars))
        else:
            total += sum(_traffic(one) for one in _inside(equation.params))
    return total


def _dot(equation, unit: int) -> tuple[float, float]:
    (left, right), (batch, _) = equation.params["dimension_numbers"]
    a, b = (v.aval.shape for v in equation.invars)
    shared = math.prod(a[i] for i in left)
    times = math.prod(a[i] for i in batch)
    rows = math.prod(a) // max(shared * times, 1)
    columns = math.prod(b) // max(shared * times, 1)
    return 2.0 * times * rows * columns * shared, 2.0 * times * _product(rows, columns, shared, unit)


def _convolution(equation, unit: int) -> tuple[float, float]:
    numbers, out = equation.params["dimension_numbers"], equation.outvars[0].aval.shape
    kernel = equation.invars[1].aval.shape
    groups = equation.params["feature_group_count"] * equation.params["batch_group_count"]
    window = math.prod(kernel[i] for i in numbers.rhs_spec[2:])
    # Of a window over an input with holes in it, as in the gradient of a strided convolution, the holes cost nothing.
    window = max(1.0, window / math.prod(equation.params["lhs_dilation"]))
    features, made = kernel[numbers.rhs_spec[1]], out[numbers.out_spec[1]] // groups
    rows = math.prod(out) // (made * groups)
    exact = 2.0 * groups * rows * made * features * window
    if window <= FEW and features >= SUBLANES:
        return exact, 2.0 * groups * window * _product(rows, made, features, unit)
    return exact, 2.0 * groups * _product(rows, made, math.ceil(features * window), unit)


def _product(rows: int, columns: int, shared: int, unit: int) -> float:
    """Multiplications of [rows,shared] x [shared,columns] with one operand resting in the unit, whichever is cheaper."""
    up = lambda size, to: -(-size // to) * to  # noqa: E731
    deep = up(shared, unit)
    return float(deep * min(up(rows, SUBLANES) * up(columns, unit), up(columns, SUBLANES) * up(rows, unit)))
