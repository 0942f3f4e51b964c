"""Nested parameters and their paths."""

from champ_jax.trees import flatten, unflatten


def test_paths_of_any_tree():
    assert flatten({"b": [1, {"c": 2}], "a": 3, "none": None}) == {"a": 3, "b/0": 1, "b/1/c": 2}
    assert list(flatten({"b": 1, "a": 2})) == ["a", "b"]


def test_nested_dicts_come_back():
    tree = {"denoiser": {"down_0": {"kernel": 1, "bias": 2}, "up_0": {"kernel": 3}}, "m2p": {"kernel": 4}}
    assert unflatten(flatten(tree)) == tree
