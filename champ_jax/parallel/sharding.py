"""Which mesh axis splits which dimension: one table, and the layout of arrays that follows from it."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from champ_jax.errors import UserError

AXES = ("slice", "outer", "inner", "fsdp", "context", "tensor")
"""`outer` x `inner` is what configurations call replica: 320 channels divide by 16 and by 4, but not by 64."""

RULES: Mapping[str, tuple[str, ...]] = {
    # Of data: samples, and the frames of clips longer than one device holds.
    "batch": ("slice", "outer", "inner", "fsdp"),
    "frames": ("context",),
    # Of masters, moments and averages (ZeRO-1): every device keeps and updates a part. Not over slices: what is gathered
    # in every step stays within the fast network, and only the sum of gradients crosses the slow one.
    "masters": ("outer", "inner", "fsdp", "tensor"),
    # Of the parameters that a step computes with: whole, unless fsdp or tensor splits them.
    "compute": ("fsdp", "tensor"),
}
SMALL = 1 << 12
"""Arrays of fewer numbers are whole everywhere: splitting them costs more messages than it saves memory."""


def check_rules(rules: Mapping[str, tuple[str, ...]] = RULES) -> None:
    """Raises UserError for an axis that does not exist, stands twice in one rule, or splits samples and frames at once."""
    for name, axes in rules.items():
        unknown = [axis for axis in axes if axis not in AXES]
        if unknown or len(set(axes)) < len(axes):
            raise UserError(f"sharding rule {name}: {axes} must be different ones of {', '.join(AXES)}.")
    if shared := set(rules["batch"]) & set(rules["frames"]):
        raise UserError(f"sharding rules batch and frames both use {', '.join(sorted(shared))}: an array can be split by an axis once.")


def parameter_spec(shape: tuple[int, ...], mesh: Mesh, rule: str) -> PartitionSpec:
    """Layout of one parameter, moment or average by a rule of the table, by its shape alone.

    Each axis of the rule goes to the longest dimension that it divides evenly, after what other axes took of it; an axis
    that divides none leaves the array whole along it.
    """
    if math.prod(shape) < SMALL:
        return PartitionSpec()
    taken: list[list[str]] = [[] for _ in shape]
    left = list(shape)
    for axis in sorted(RULES[rule], key=lambda axis: -mesh.shape[axis]):
        size = mesh.shape[axis]
        # Of equally long ones the last: the outputs of a kernel.
        places = [i for i in reversed(range(len(shape))) if size > 1 and left[i] % size == 0]
        if places:
            place = max(places, key=lambda i: (left[i], -len(taken[i])))
            taken[place].append(axis)
            left[place] //= size
    return PartitionSpec(*(tuple(axes) if len(axes) > 1 else axes[0] if axes else None for axes in taken))


def layout(tree: Any, mesh: Mesh, rule: str) -> Any:
    """A NamedSharding for every array of a tree (arrays or `jax.ShapeDtypeStruct`) by a rule of the table."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, parameter_spec(tuple(leaf.shape), mesh, rule)), tree)
