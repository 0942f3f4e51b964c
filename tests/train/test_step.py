"""Rows 16 to 19 of docs/reliability.md: updates that would destroy the weights are skipped inside the step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from champ_jax.parallel.mesh import make_mesh
from champ_jax.train import step as guarded
from champ_jax.train.optim import make_optimizer
from champ_jax.train.state import create_state
from champ_jax.train.step import make_step

OPTIM = ConfigDict({"learning_rate": 0.1, "warmup": 0, "steps": 1000, "decay": 0.0, "weight_decay": 0.0, "clip": 1.0, "ema": 0.9,
                    "accumulation": 1})  # fmt: skip
GOOD = {"x": np.ones((2, 4), np.float32), "scale": np.ones((2,), np.float32)}


def loss_fn(params, batch, key, step):
    loss = jnp.mean(batch["scale"] * jnp.sum((batch["x"] * params["w"] - 0.5) ** 2, 1))
    return loss, {}


@pytest.fixture(scope="module")
def step():
    return jax.jit(partial(make_step(loss_fn, make_optimizer(OPTIM), OPTIM), seed=0))


def fresh():
    params = {"w": np.linspace(1.0, 2.0, 4).astype(np.float32)}
    return create_state(params, lambda path: True, make_optimizer(OPTIM), jnp.float32, make_mesh({}))


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((state.trained, state.optimizer, state.ema))]


BAD = {
    "a NaN in the data": {**GOOD, "x": np.array([[np.nan, 1, 1, 1], [1, 1, 1, 1]], np.float32)},
    "an infinite gradient": {**GOOD, "scale": np.array([np.inf, 1], np.float32)},
    "an overflow": {**GOOD, "x": np.full((2, 4), 1e30, np.float32)},
}


@pytest.mark.parametrize("batch", BAD.values(), ids=BAD)
def test_what_is_not_finite_changes_no_bit(step, batch):
    """Rows 16 and 17."""
    state, _ = step(fresh(), GOOD)
    after, metrics = step(state, batch)
    assert bits(after) == bits(state)
    assert (int(metrics["skipped"]), int(metrics["skipped_in_row"]), int(after.step)) == (1, 1, 2)
    after, metrics = step(after, GOOD)
    assert bits(after) != bits(state)
    assert (int(metrics["skipped"]), int(metrics["skipped_in_row"])) == (1, 0)


def test_a_spike_is_skipped_after_the_warm_up(step, monkeypatch):
    """Row 19."""
    state = fresh()
    spike = {**GOOD, "scale": np.full(2, 100, np.float32)}
    state, metrics = step(state, spike)
    assert int(metrics["skipped"]) == 0, "nothing to compare with yet"
    state = fresh()
    noisy = {**GOOD, "x": np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)}
    for _ in range(guarded.WARMUP):
        state, metrics = step(state, noisy)
    assert int(metrics["skipped"]) == 0
    norm = float(state.guard.norm)
    huge = {**noisy, "scale": np.full(2, 100 * norm / float(metrics["gradient_norm"]), np.float32)}
    after, metrics = step(state, huge)
    assert int(metrics["skipped"]) == 1 and bits(after) == bits(state)


def test_a_loss_that_stays_higher_is_accepted(step):
    """A term that joins the loss late must not stop the run."""
    state = fresh()._replace(guard=fresh().guard._replace(norm=jnp.float32(1e-3), accepted=jnp.int32(100)))
    in_row = []
    for _ in range(20):
        state, metrics = step(state, GOOD)
        in_row.append(int(metrics["skipped_in_row"]))
    assert in_row[0] == 1 and in_row[-1] == 0


def test_clean_noise_is_never_taken_for_a_spike():
    """Row 19: fewer than one in a thousand, of norms that vary as those of diffusion losses do (by a factor of ten)."""
    norms = np.exp(np.random.default_rng(0).normal(0.0, 0.7, 5000)).astype(np.float32)
    guard = fresh().guard

    def one(guard, norm):
        ok, guard = guarded.judge(guard, jnp.float32(1.0), norm)
        return guard, ok

    _, accepted = jax.lax.scan(one, guard, norms)
    assert np.mean(~np.asarray(accepted)) < 1e-3
