"""Between a state dict of PyTorch and nested parameters of ours, by a table of names; exact, in both directions.

Each of our parameters has one PyTorch name, found by renaming its path; the accounting then leaves no key of either
side unexplained. Convolutions go O,I,window <-> window,I,O and linear layers (out, in) <-> (in, out). A linear layer of
ours may be a 1x1 convolution there. No tensor is read before it is needed, and none changes its dtype.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from champ_jax.checkpoint.partial import account
from champ_jax.checkpoint.tensors import LazyArray, lazy
from champ_jax.models.animator import split
from champ_jax.nn.keys import ParamKeys
from champ_jax.trees import flatten, unflatten

Rules = Sequence[tuple[str, str | Callable[[re.Match], str]]]
"""Regular expression and replacement, applied in order to "down_0/resnet_1/conv1/kernel" and the like."""

LEAVES: Rules = ((r"/kernel$", "/weight"), (r"/scale$", "/weight"))
STATISTICS: Rules = ((r"/(mean|var)$", r"/running_\1"),)
"""Of batch norms."""
COUNTERS = {"*.num_batches_tracked": "counts training batches, which inference has no use for"}
"""What batch norms keep besides, for `Layout.kept`."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one kind of file names and shapes the parameters of one model.

    rules: from our paths to its names. pointwise: expression for the paths of our linear kernels that are 1x1
    convolutions there. kept: patterns (`*` as in file names) of names that our model has no use for, with the reason;
    they are kept beside the weights, so that they can be written back.
    """

    rules: Rules
    pointwise: str | None = None
    kept: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def name(self, path: str) -> str:
        """The PyTorch name of the parameter at `path`, e.g. "down_blocks.0.resnets.1.conv1.weight"."""
        for pattern, replacement in (*self.rules, *LEAVES):
            path = re.sub(pattern, replacement, path)
        return path.replace("/", ".")


def their_shapes(params: Mapping, layout: Layout) -> dict[str, tuple[int, ...]]:
    """PyTorch name to shape of nested parameters, or of their shapes."""
    leaves = flatten(params)
    return {layout.name(path): _their_shape(path, leaf.shape, layout) for path, leaf in leaves.items()}


def to_ours(state: Mapping[str, Any], params: Mapping, layout: Layout) -> dict[str, Any]:
    """The arrays of a state dict that are these nested parameters, as LazyArrays; names and shapes must be right."""
    leaves = flatten(params)
    return unflatten({path: _to_ours(state[layout.name(path)], path, leaf.shape) for path, leaf in leaves.items()})


def to_torch(params: Mapping, shapes: Mapping, layout: Layout, source: str = "parameters") -> dict[str, LazyArray]:
    """PyTorch name to array of nested parameters, each in its own dtype: the inverse of `to_ours`.

    Only what `shapes` has is taken. Raises UserError, listing them, for parameters missing or of another shape.
    """
    wanted, given = flatten(shapes), flatten(params)
    found = {path: tuple(given[path].shape) for path in wanted if path in given}
    account(found, {path: tuple(leaf.shape) for path, leaf in wanted.items()}, source=source)
    return {layout.name(path): _to_theirs(given[path], path, layout) for path in wanted}


@functools.cache
def abstract(model: Callable, config: Any) -> dict:
    """Shapes of the parameters of `model(config, rngs)`, as a nested dict; nothing is allocated."""
    return split(nnx.eval_shape(lambda: model(config, ParamKeys(0))))[1]


def _their_shape(path, shape, layout):
    if not path.endswith("/kernel"):
        return tuple(shape)
    *window, width_in, width_out = shape
    if layout.pointwise and re.search(layout.pointwise, path):
        window = [1, 1]
    return (width_out, width_in, *window)


def _to_ours(array, path, shape):
    array = lazy(array)
    if not path.endswith("/kernel"):
        return array
    return array.map(lambda x: np.moveaxis(x, (0, 1), (-1, -2)).reshape(shape), shape)


def _to_theirs(array, path, layout):
    array = lazy(array)
    if not path.endswith("/kernel"):
        return array
    shape = _their_shape(path, array.shape, layout)
    return array.map(lambda x: np.moveaxis(x, (-1, -2), (0, 1)).reshape(shape), shape)
