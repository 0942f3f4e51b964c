"""How every parameter of the shipped configurations lies on three meshes, against files that are read when they change."""

import difflib

import pytest

from tests.fixtures.make_layouts import CONFIGS, LAYOUTS, MESHES, describe


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("config", CONFIGS)
def test_layouts_are_the_written_ones(config, mesh):
    written = (LAYOUTS / f"{config}-{mesh}.txt").read_text().splitlines()
    found = describe(config, MESHES[mesh]).splitlines()
    changes = "\n".join(difflib.unified_diff(written, found, "written", "found", lineterm="", n=0))
    assert not changes, f"if this is meant, run python -m tests.fixtures.make_layouts:\n{changes}"
