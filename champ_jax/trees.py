"""Nested parameters and their paths: {'a': {'b': x}} is {'a/b': x}."""

from collections.abc import Mapping
from typing import Any

import jax


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves of any pytree by their path, 'trained/denoiser/down_0/kernel', in the tree's order, in which dicts are sorted."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def unflatten(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict of which these are the paths."""
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *groups, leaf = path.split("/")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = array
    return tree
