"""Between a state dict of PyTorch and nested parameters of ours, by a table of names; exact, in both directions.

Each of our parameters has one PyTorch name, found by renaming its path; the accounting then leaves no key of either
side unexplained. Convolutions go OIHW <-> HWIO and linear layers (out, in) <-> (in, out). A linear layer of ours may
be a 1x1 convolution there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from champ_jax.checkpoint.partial import account

Rules = Sequence[tuple[str, str]]
"""Regular expression and replacement, applied in order to "down_0/resnet_1/conv1/kernel" and the like."""

LEAVES: Rules = ((r"/kernel$", "/weight"), (r"/scale$", "/weight"))


def torch_name(path: str, rules: Rules) -> str:
    """The PyTorch name of the parameter at `path`, e.g. "down_blocks.0.resnets.1.conv1.weight"."""
    for pattern, replacement in (*rules, *LEAVES):
        path = re.sub(pattern, replacement, path)
    return path.replace("/", ".")


def from_torch(
    state: Mapping[str, np.ndarray],
    params: Mapping,
    rules: Rules,
    allow: Mapping[str, str] | None = None,
    pointwise: str | None = None,
    source: str = "state dict",
) -> dict:
    """Converts a state dict to parameters.

    Args:
      state: PyTorch name to array.
      params: the model's nested parameters, or just their shapes; what they need is what is read.
      rules: from our paths to PyTorch names.
      allow: PyTorch names (patterns) that may stay unused, with the reason.
      pointwise: expression for the paths of our linear kernels that are 1x1 convolutions in the file.
      source: the file, for error messages.

    Returns:
      Nested dict of float32 arrays with the paths and shapes of `params`.

    Raises:
      UserError: keys missing, unexpected or of another shape.
    """
    leaves = flatten_dict(params, sep="/")
    names = {path: torch_name(path, rules) for path in leaves}
    shapes = {names[path]: _torch_shape(path, leaf.shape, pointwise) for path, leaf in leaves.items()}
    account({name: array.shape for name, array in state.items()}, shapes, allow, source)
    arrays = {path: _to_ours(state[names[path]], path, leaf.shape) for path, leaf in leaves.items()}
    return unflatten_dict(arrays, sep="/")


def to_torch(params: Mapping, rules: Rules, pointwise: str | None = None) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: PyTorch name to array, in the arrays' own dtype."""
    leaves = flatten_dict(params, sep="/")
    return {torch_name(path, rules): _to_theirs(np.asarray(leaf), path, pointwise) for path, leaf in leaves.items()}


def _torch_shape(path, shape, pointwise):
    if not path.endswith("/kernel"):
        return tuple(shape)
    *window, width_in, width_out = shape
    if pointwise and re.search(pointwise, path):
        window = [1, 1]
    return (width_out, width_in, *window)


def _to_ours(array, path, shape):
    array = np.asarray(array, np.float32)
    if path.endswith("/kernel"):
        array = np.moveaxis(array, (0, 1), (-1, -2)).reshape(shape)
    return np.ascontiguousarray(array)


def _to_theirs(array, path, pointwise):
    if path.endswith("/kernel"):
        array = np.moveaxis(array, (-1, -2), (0, 1)).reshape(_torch_shape(path, array.shape, pointwise))
    return np.ascontiguousarray(array)
