"""Splitting parameters, accumulation, and what a step may change."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from champ_jax.parallel.mesh import make_mesh
from champ_jax.train.state import averaged_params, combine, create_state, partition
from champ_jax.train.step import make_step

PARAMS = {"a": {"w": jnp.ones((3, 2))}, "b": {"w": jnp.full((3, 2), 2.0)}}
MESH = make_mesh({"replica": 1})
OPTIM = {"ema": 0.5, "accumulation": 1}


def loss(params, batch, key, step):
    value = jnp.mean(jnp.square(batch["x"] @ (params["a"]["w"] + params["b"]["w"])))
    return value, {"twice": 2 * value}


def test_partition_and_combine_are_inverse():
    trained, frozen = partition(PARAMS, lambda path: path.startswith("a/"))
    assert list(trained) == ["a"] and list(frozen) == ["b"]
    assert jax.tree.all(jax.tree.map(np.array_equal, combine(trained, frozen), PARAMS))


def test_a_step_changes_what_is_trained_and_nothing_else():
    optimizer = optax.adam(1e-2)
    state = create_state(PARAMS, lambda path: path.startswith("a/"), optimizer, jnp.bfloat16, MESH)
    assert state.trained["a"]["w"].dtype == jnp.float32 and state.frozen["b"]["w"].dtype == jnp.bfloat16
    step = partial(make_step(loss, optimizer, ConfigDict(OPTIM)), seed=0)
    after, metrics = step(state, {"x": jnp.ones((4, 3))})
    assert int(after.step) == 1 and metrics["twice"] == 2 * metrics["loss"] and metrics["gradient_norm"] > 0
    assert not np.array_equal(after.trained["a"]["w"], PARAMS["a"]["w"])
    assert np.array_equal(after.frozen["b"]["w"], state.frozen["b"]["w"])
    assert set(averaged_params(after)) == {"a", "b"}


def test_accumulation_gives_the_gradient_of_the_whole_batch():
    optimizer = optax.sgd(1e-2)
    batch = {"x": jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)}
    results = []
    for accumulation in (1, 4):
        state = create_state(PARAMS, lambda path: True, optimizer, jnp.float32, MESH)
        step = partial(make_step(loss, optimizer, ConfigDict({**OPTIM, "accumulation": accumulation})), seed=0)
        results.append(step(state, batch))
    (one, one_metrics), (four, four_metrics) = results
    np.testing.assert_allclose(four.trained["a"]["w"], one.trained["a"]["w"], rtol=1e-6)
    np.testing.assert_allclose(four_metrics["loss"], one_metrics["loss"], rtol=1e-6)
