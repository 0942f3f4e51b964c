"""Plans of runs: what needs no TPU compiler here, and, where there is one, that two parts agree with the whole."""

import jax
import numpy as np
import pytest

from champ_jax.data.describe import describe_batch
from champ_jax.data.loader import make_loader
from champ_jax.data.records import open_records
from champ_jax.errors import UserError
from champ_jax.parallel.ahead import Program
from champ_jax.parallel.chips import CHIPS, has_libtpu
from champ_jax.parallel.collectives import Collective
from champ_jax.train import plan as planning
from champ_jax.train.assemble import assemble, assemble_abstract
from champ_jax.train.parts import groups
from tests.train import planned

needs_libtpu = pytest.mark.skipif(not has_libtpu(), reason="no TPU compiler here: pip install -e '.[tpu]'")


def shapes(tree):
    return jax.tree.map(lambda x: (tuple(x.shape), np.dtype(x.dtype).name), tree)


@pytest.mark.parametrize("stage", "BC")
def test_batches_are_those_of_the_loader(small, stage):
    config = small(stage, **({"data__frames": 2, "data__stride": 1} if stage == "C" else {}))
    records = open_records(config.data.directory, config.data.split)
    geometry, data = assemble_abstract(small("B")).config, config.data
    frames = {"frames": data.frames, "stride": data.get("stride", 1)}
    real = next(make_loader(records, stage=stage, batch_size=data.batch_size, size=data.size, kinds=geometry.kinds, **frames))
    del real["record"]  # never reaches a device
    face, music = real["face"].shape[-1], real["music"].shape[-1]
    described = describe_batch(stage, batch_size=data.batch_size, frames=data.frames, size=data.size, kinds=geometry.kinds,
                               face_dim=face, music_dim=music)  # fmt: skip
    found = {name: shapes(entry) for name, entry in real.items()}
    plain = jax.tree.map(lambda e: (e[0], np.dtype(e[1]).name), described, is_leaf=lambda e: isinstance(e, tuple))
    assert plain == found


def test_a_model_without_weights_has_the_shapes_of_the_model(small):
    config = small("B")
    real = assemble(config, open_records(config.data.directory, config.data.split))
    abstract = assemble_abstract(config)
    assert abstract.config == real.config
    assert jax.tree.map(lambda x: tuple(x.shape), abstract.params) == jax.tree.map(lambda x: tuple(x.shape), real.params)


def test_full_size_without_weights():
    """CHAMP's networks with M2P: 1.8 billion trained parameters in stage B, 453 million in stage C."""
    from champ_jax.config import load_config
    from champ_jax.train.stages import STAGES
    from champ_jax.train.state import partition

    for name, least, most in (("stage_b", 1.75e9, 1.9e9), ("stage_c", 4.5e8, 4.6e8)):
        config = load_config(name)
        params = assemble_abstract(config).params
        trained, _ = partition(params, lambda path: STAGES[config.stage].trained(path, config))  # noqa: B023
        assert least < sum(leaf.size for leaf in jax.tree.leaves(trained)) < most
        assert {"vae", "clip", "m2p", "reference", "denoiser", "guidance"} == set(params)


@pytest.fixture(scope="module")
def traced():
    return planning.trace(planned.small("C", batch=1, size=64, frames=4), CHIPS["v5e"], jax.devices()[:1])


def test_memory_adds_up(traced):
    arguments = planning.held(traced.state) + planning.held(traced.batch)
    program = Program(True, arguments + 3e8 + 1e6, arguments=arguments, temporaries=int(3e8), code=int(1e6), flops=1.0)
    table = planning.memory_table(traced, program, CHIPS["v5e"])
    assert sum(size for name, size in table.items() if name not in ("total", "usable", "share")) == pytest.approx(table["total"])
    assert table["optimiser"] == pytest.approx(2 * table["average"], rel=0.01) and table["activations"] > 0


def test_a_plan_says_what_fits_and_what_travels(traced):
    gather = Collective("all-gather", "gathered", 1000, 2, "all-gather")
    stray = Collective("all-to-all", "other", 1 << 20, 1, "all-to-all of activations")
    program = Program(True, 0.95 * CHIPS["v5e"].usable, temporaries=1, flops=1e9, bytes=1e9, collectives=(gather, stray))
    result = planning.report(traced, program, CHIPS["v5e"], "v5e:1x1", 1, 2.0)
    assert not result["fits"] and result["memory"]["share"] == pytest.approx(0.95)
    assert result["collectives"]["gathered"]["bytes"] == 2000 and "all-to-all" in result["unplanned"][0]
    assert 0 < result["flops"]["model"] < result["flops"]["hardware"] < result["flops"]["padded"]  # remat, and small channels
    assert result["cost"]["cost"] == pytest.approx(2.0 * result["cost"]["chip_hours"])


def test_operations_of_a_chip_do_not_depend_on_their_number():
    one = planning.trace(planned.small("C", batch=1, size=64, frames=4), CHIPS["v5e"], jax.devices()[:1]).operations
    # Eight samples are eight times the work, to the rounding of rows.
    eight = planning.trace(planned.small("C", batch=8, size=64, frames=4, replica=1), CHIPS["v5e"], jax.devices()[:1]).operations
    assert eight.model == pytest.approx(8 * one.model, rel=0.01) and eight.hardware == pytest.approx(8 * one.hardware, rel=0.01)


def test_one_parameter_of_each_shape_stands_for_all(traced):
    found = groups(traced.state.trained)
    assert sum(count * len(chosen) for count, chosen in found.items()) == len(jax.tree.leaves(traced.state.trained))
    size = sum(count * leaf.size for count, chosen in found.items() for leaf in chosen.values())
    assert size == sum(leaf.size for leaf in jax.tree.leaves(traced.state.trained))


def test_advice_is_checked_and_has_three_ways():
    config = planned.small("C", batch=16)
    asked = []

    def plan(*words):
        asked.append(words)
        if any("fsdp" in word for word in words):
            raise UserError("this mesh does not fit")
        share = 1.3 - 0.3 * sum("latent_cache" in w or "accumulation=2" in w or "batch_size=4" in w for w in words)
        return {"fits": share <= 0.9, "memory": {"share": share}}

    advice = planning.advise(config, 4, plan)
    assert len(advice) == 3 and all(share <= 0.9 for _, share in advice)
    assert all(words in asked for words, _ in advice)
    assert ("--config.data.latent_cache=true", "--config.data.augment=none", "--config.optim.accumulation=2") in [w for w, _ in advice]


def test_a_gpu_is_estimated():
    result = planning.plan(planned.small("B", batch=1, size=64, replica=1), "h200:1", price=3.0)
    assert not result["compiled"] and result["fits"] and result["collectives"]["gathered"]["bytes"] == 0
    assert result["memory"]["total"] > 0 and result["time"]["expected"] > 0


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("stage, size, frames", [("B", 512, 1), ("C", 128, 8)])
def test_two_parts_agree_with_the_whole(stage, size, frames, tmp_path):
    """Memory, FLOPs and bytes of collectives within 5 %."""
    config = planned.small(stage, batch=16, size=size, frames=frames)
    whole, parts = (planning.plan(config, "v5e:2x2", whole=value, cache=tmp_path) for value in (True, False))
    assert parts["memory"]["total"] == pytest.approx(whole["memory"]["total"], rel=0.05)
    assert parts["flops"]["compiler"] == pytest.approx(whole["flops"]["compiler"], rel=0.05)
    for purpose in ("gathered", "summed"):
        for one in (whole, parts):
            assert one["collectives"][purpose]["bytes"] == pytest.approx(one["collectives"][purpose]["formula"], rel=0.05)
    assert not whole["unplanned"] and not parts["unplanned"]
