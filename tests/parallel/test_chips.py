"""Chips, topologies, and what is said where they cannot be compiled for."""

import importlib.util

import pytest

from champ_jax.errors import UserError
from champ_jax.parallel import ahead, chips
from champ_jax.parallel.mesh import make_mesh


def test_topologies():
    assert chips.parse_topology("v5p:8x8x4") == (chips.CHIPS["v5p"], (8, 8, 4))
    assert chips.count("v5e:16x16", 2) == 512 and chips.count("h100:8") == 8
    for wrong in ("v5e", "v5e-256", "v9:2x2", "v5e:2xx2"):
        with pytest.raises(UserError, match="such as v5e:16x16"):
            chips.parse_topology(wrong)


def test_figures_are_in_the_right_units():
    for chip in chips.CHIPS.values():
        assert 1e14 < chip.peak < 1e16 and 1e10 < chip.usable <= 1.01 * chip.hbm < 2e11 and 5e11 < chip.bandwidth < 1e13
        assert chip.dcn < chip.ici < chip.bandwidth


def test_no_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '.\[tpu\]'"):
        chips.describe_devices("v5e:2x2")
    with pytest.raises(UserError, match="needs the GPU"):
        chips.describe_devices("h100:8")


def test_what_a_refusal_for_memory_says():
    used = "RESOURCE_EXHAUSTED: ... Used 15.79G of 15.75G hbm. Exceeded hbm capacity by 45.19M."
    total = "the total memory required for HLO temporaries (240.00G) exceeds available HBM (15.75G)."
    assert ahead.out_of_memory(used) == 15.79 * 2**30 and ahead.out_of_memory(total) == 240 * 2**30
    assert ahead.out_of_memory("RESOURCE_EXHAUSTED") == 0


def test_what_was_compiled_is_not_compiled_again(tmp_path, monkeypatch):
    class Lowered:
        def as_text(self):
            return "module"

    calls = []
    monkeypatch.setattr(ahead, "_compile", lambda lowered: calls.append(1) or ahead.Program(True, 3.0, flops=2.0))
    first = ahead.compile_lowered(Lowered(), "v5e:2x2", tmp_path)
    assert ahead.compile_lowered(Lowered(), "v5e:2x2", tmp_path) == first and len(calls) == 1
    ahead.compile_lowered(Lowered(), "v5e:4x4", tmp_path)
    assert len(calls) == 2


@pytest.mark.skipif(not chips.has_libtpu(), reason="no TPU compiler here: pip install -e '.[tpu]'")
@pytest.mark.parametrize("topology", ["v5e:16x16", "v5p:8x8x4", "v6e:4x8"])
def test_meshes_of_real_topologies(topology):
    """16 x 16 devices also where no axis of the machine, and no product of them, has 16."""
    mesh = make_mesh({"replica": -1}, chips.describe_devices(topology))
    assert mesh.size == chips.count(topology) and mesh.shape["inner"] == 16
