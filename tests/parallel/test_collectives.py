"""Collectives: read from a compiled program, and computed from the layout of the state."""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from champ_jax.parallel import collectives
from champ_jax.parallel.mesh import axis_sizes
from champ_jax.parallel.sharding import AXES

PROGRAM = (Path(__file__).parents[1] / "fixtures" / "collectives_v5e.txt").read_text()


def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def mesh(**sizes):
    devices = 1
    for size in sizes.values():
        devices *= size
    return AbstractMesh(axis_sizes(sizes, devices), AXES)


def test_every_spelling_is_read_and_nothing_twice():
    found = {(one.kind, one.purpose, one.bytes, one.times) for one in collectives.read(PROGRAM)}
    assert found == {
        ("reduce-scatter", "summed", 4 * 128 * (128 + 768), 1),  # an all-reduce inside a fusion named all-reduce-scatter
        ("all-reduce", "summed", 2 * 64 * 64, 3),  # in a loop that turns three times
        ("all-gather", "gathered", 4 * 192 * 256, 1),  # spelled twice, with one channel
        ("collective-permute", "other", 4 * 95, 1),  # start and done are one
        ("all-reduce", "gathered", 2 * 20480 * 20, 1),  # a gather of parts that fill no tile, joined
        ("all-reduce", "summed", 2 * 64, 1),  # with a sum
        ("reduce-scatter", "summed", 4 * 16 * 8 * 4, 1),  # the operand is what counts: four times the result
    }


def test_small_strays_are_listed_but_raise_no_alarm():
    found = collectives.read(PROGRAM)
    assert collectives.totals(found, "purpose")["other"] == {"count": 1, "bytes": 380}
    assert not collectives.unplanned(found)
    large = found[0]._replace(kind="all-to-all", purpose="other", bytes=1 << 20)
    assert collectives.unplanned([large]) == [large]


def test_the_formula():
    trained = {"kernel": shape(3, 3, 320, 640), "odd": shape(3, 3, 35, 35), "bias": shape(640)}
    kernel, odd, bias = 2 * 9 * 320 * 640, 2 * 9 * 35 * 35, 4 * 640
    everything = {"gathered": kernel, "summed": kernel + odd + bias}
    assert collectives.formula(trained, mesh(replica=256), "bfloat16") == everything
    assert collectives.formula(trained, mesh(slice=2, replica=16), "bfloat16") == everything
    assert collectives.formula(trained, mesh(replica=4), "bfloat16", accumulation=2)["summed"] == 2 * (kernel + odd + bias)
    assert collectives.formula(trained, mesh(replica=1), "bfloat16") == {"gathered": 0, "summed": 0}
    assert collectives.formula(trained, mesh(replica=4, fsdp=2), "bfloat16")["gathered"] == kernel // 2


def test_a_compiled_step_on_eight_devices_moves_what_the_formula_says():
    from tests.parallel.test_mesh import on_devices

    on_devices(
        8,
        """
from champ_jax.parallel import collectives
from champ_jax.parallel.sharding import layout
mesh = make_mesh({"replica": -1})
trained = {"kernel": jax.ShapeDtypeStruct((256, 512), jnp.float32)}
masters, whole = layout(trained, mesh, "masters"), layout(trained, mesh, "compute")
def step(params, x):
    params = jax.lax.with_sharding_constraint(params, whole)
    gradient = jax.grad(lambda p: jnp.mean(jnp.tanh(x @ p["kernel"])))(params)
    return jax.lax.with_sharding_constraint(gradient, masters)
x = jax.ShapeDtypeStruct((16, 256), jnp.float32, sharding=batch_sharding(mesh))
placed = {"kernel": jax.ShapeDtypeStruct((256, 512), jnp.float32, sharding=masters["kernel"])}
program = jax.jit(step, in_shardings=(masters, batch_sharding(mesh)), out_shardings=masters).lower(placed, x).compile().as_text()
found = collectives.totals(collectives.read(program), "purpose")
expected = collectives.formula(trained, mesh, "float32")
assert {name: row["bytes"] for name, row in found.items()} == expected == {"gathered": 4 * 256 * 512, "summed": 4 * 256 * 512}, found
""",
    )
