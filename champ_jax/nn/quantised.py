"""Kernels in 8 bits: how they are stored, made into numbers again inside compiled functions, and multiplied as they are.

A quantised kernel is a nested dict in the kernel's place, of
    values  int8 or float8_e4m3fn [...,C], output channels last
    scale   float32 [C]: kernel = values * scale
    range   only where the layer's input is quantised too, float32 [1]: the largest magnitude that it is quantised for (a static
            range), or [0]: that of each row, found when it is there (a dynamic one)
so that it is stored, loaded and passed around as any other parameters are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx

from champ_jax.errors import UserError

VALUES, SCALE, RANGE = "values", "scale", "range"
PEAKS = {"int8": 127.0, "float8_e4m3fn": float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)}
"""Formats of values, and the largest value of each."""


def to_eight_bits(weight: np.ndarray, dtype: str = "int8") -> tuple[np.ndarray, np.ndarray]:
    """A kernel [...,C], output channels last, as values [...,C] of a dtype of PEAKS and scales f32 [C]: weight = values * scale.

    Symmetric and rounded to nearest, so zero stays zero; as int8, -127..127, no value is off by more than half a scale.
    """
    weight = np.asarray(weight, np.float32)
    peak = np.abs(weight).max(axis=tuple(range(weight.ndim - 1)))
    scale = np.where(peak > 0, peak / PEAKS[dtype], 1.0).astype(np.float32)
    values = np.round(weight / scale) if dtype == "int8" else weight / scale
    return values.astype(dtype), scale


def is_quantised(node: Any) -> bool:
    """Whether a node of nested parameters is a quantised kernel."""
    if not isinstance(node, Mapping) or not {VALUES, SCALE} <= node.keys():
        return False
    return str(node[VALUES].dtype) in PEAKS and node[SCALE].shape == node[VALUES].shape[-1:]


def refuse_quantised(params: Any, source: Any) -> None:
    """Raises UserError, naming their source, where nested parameters have a quantised kernel: for what needs kernels as numbers."""
    parts = [params]
    while parts:
        node = parts.pop()
        if is_quantised(node):
            raise UserError(f"{source}: these weights are quantised: give those that they were made of")
        parts += node.values() if isinstance(node, Mapping) else ()


def dequantise(params: Any) -> Any:
    """Nested parameters with every quantised kernel as a float32 array, the others as they are.

    Meant to be called inside the jitted function: there the array lasts no longer than its use, and memory holds the 8 bits.
    """
    if is_quantised(params):
        return params[VALUES].astype(np.float32) * params[SCALE]
    if isinstance(params, dict):
        return {name: dequantise(part) for name, part in params.items()}
    return params


def multiply_in_eight_bits(model: nnx.Module, params: Any) -> None:
    """Lets the layers whose kernels have a range multiply 8-bit numbers by 8-bit numbers, with qwix.

    model: merged from `dequantise(params)` inside the jitted function; it is changed in place. The compiler drops the float32
    kernels, which nothing reads then. Raises UserError where qwix is needed and not installed.
    """
    for path, kernel in _with_range(params):
        layer: Any = model
        for name in path:
            layer = layer[name] if isinstance(layer, (nnx.Dict, nnx.List)) else getattr(layer, name)
        # A layer reads only the one of the two that it has a use for.
        layer.dot_general = layer.conv_general_dilated = _product(kernel)


def _with_range(params: Any, path: tuple = ()) -> Iterator[tuple[tuple, Mapping[str, Any]]]:
    """(path of the layer, kernel) of every quantised kernel with a range."""
    if is_quantised(params):
        if RANGE in params:
            yield path[:-1], params
    elif isinstance(params, dict):
        for name, part in params.items():
            yield from _with_range(part, (*path, name))


def _product(kernel: Mapping[str, Any]) -> Callable[..., jax.Array]:
    """A dot_general or conv_general_dilated of an input [...,C] and, whatever kernel it is given, this one."""
    try:
        import qwix
    except ImportError as error:
        raise UserError("these weights multiply 8-bit numbers, which needs qwix: pip install 'champ_jax[quantise]'") from error
    values, limit = kernel[VALUES], kernel[RANGE]
    dtype, rank = str(values.dtype), values.ndim
    weights = qwix.QArray(values, kernel[SCALE].reshape((1,) * (rank - 1) + (-1,)))

    def product(x: jax.Array, _: jax.Array, *args, **options) -> jax.Array:
        if limit.size:
            scale = (limit / PEAKS[dtype]).reshape((1,) * x.ndim).astype(x.dtype)
            quantised = jnp.clip(x / scale, -PEAKS[dtype], PEAKS[dtype])
            x = qwix.QArray((jnp.round(quantised) if dtype == "int8" else quantised).astype(dtype), scale)
        else:
            # A kernel that is summed over space has one scale for all of a picture.
            x = qwix.quantize(x, dtype, channelwise_axes=[0] if rank > 2 else range(x.ndim - 1))
        multiply = qwix.conv_general_dilated if rank > 2 else qwix.dot_general
        return multiply(x, weights, *args, **options).astype(x.dtype)

    return product
