"""The schedule, the average and which parameters decay."""

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from champ_jax.train.optim import learning_rate, make_optimizer, update_ema

CONFIG = ConfigDict({"learning_rate": 0.1, "warmup": 10, "steps": 100, "decay": 0.5, "weight_decay": 0.01, "clip": 1.0})


def test_learning_rate_warms_up_holds_and_decays_to_zero():
    rate = learning_rate(CONFIG)
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(49), rate(100)], [0, 0.05, 0.1, 0.1, 0], atol=1e-8)
    assert 0.04 < rate(75) < 0.06


def test_vectors_do_not_decay_and_m2p_learns_at_its_own_rate():
    params = {name: {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for name in ("m2p", "denoiser")}
    optimizer = make_optimizer(CONFIG, m2p_scale=0.1)
    state = optimizer.init(params)
    zeros = {name: {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)} for name in params}
    _, state = optimizer.update(zeros, state, params)
    updates, _ = optimizer.update(zeros, state, params)
    assert (updates["denoiser"]["bias"] == 0).all() and (updates["denoiser"]["kernel"] < 0).all()
    np.testing.assert_allclose(updates["m2p"]["kernel"], 0.1 * updates["denoiser"]["kernel"], rtol=1e-6)


def test_average_forgets_the_start_early():
    ema = update_ema({"w": jnp.zeros(1)}, {"w": jnp.ones(1)}, jnp.asarray(0), 0.999)
    np.testing.assert_allclose(ema["w"], 0.9)
    late = update_ema({"w": jnp.zeros(1)}, {"w": jnp.ones(1)}, jnp.asarray(10**6), 0.999)
    np.testing.assert_allclose(late["w"], 0.001, rtol=1e-4)
