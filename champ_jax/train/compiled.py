"""The jitted step of a run: stage, model, optimiser and layout put together, the same for training and for planning."""

import math

import jax
import jax.numpy as jnp

from champ_jax.models.animator import merge
from champ_jax.models.lora import with_lora
from champ_jax.nn.kernels import shared_by
from champ_jax.parallel.mesh import replicated
from champ_jax.parallel.sharding import RULES, layout
from champ_jax.train.assemble import Assembled
from champ_jax.train.optim import make_optimizer
from champ_jax.train.stages import STAGES, is_trained
from champ_jax.train.state import create_state, describe_state, state_layout
from champ_jax.train.step import make_step


def loss_of(config, assembled: Assembled, devices: int = 1):
    """The stage's loss as a function `(params, batch, key, step) -> (scalar, metrics)` of a batch split over so many devices."""
    stage = STAGES[config.stage]

    def loss(params, batch, key, step):
        with shared_by(devices):
            return stage.loss(merge(assembled.graphdef, with_lora(params)), batch, key, step, config, assembled.schedule, True)

    return loss


def compile_step(config, assembled: Assembled, mesh, loss=None):
    """The jitted step `(state, batch, seed) -> (state, metrics)` of a run, what its state is, and a function that makes the first.

    States are laid out as parallel/sharding.py says, batches as `shard_batch` does it; the buffers of a state are reused.
    `loss` takes the place of the stage's, for planning what a step does besides.
    """
    m2p_rate = config.optim.get("m2p_learning_rate", config.optim.learning_rate)
    optimizer = make_optimizer(config.optim, m2p_rate / config.optim.learning_rate)
    devices = math.prod(mesh.shape[axis] for axis in RULES["batch"] + RULES["frames"])
    loss = loss or loss_of(config, assembled, devices)
    dtype = jnp.dtype(config.compute_dtype)
    parts = (assembled.params, lambda path: is_trained(path, config), optimizer, dtype)
    described = describe_state(*parts)
    shardings, whole = state_layout(described, mesh), layout(described.trained, mesh, "compute")

    def gather(trained):
        # Matrices travel in the precision that they are computed with; vectors are small, and norms want them whole.
        narrow = jax.tree.map(lambda x: x.astype(dtype) if x.ndim > 1 else x, trained)
        # Without the barrier the compiler may gather first and cast then, which sends twice as much.
        narrow = jax.lax.optimization_barrier(jax.lax.with_sharding_constraint(narrow, shardings.trained))
        return jax.lax.with_sharding_constraint(narrow, whole)

    def scatter(gradients):
        # Cast when they are in parts: the compiler sees a sum of which each device keeps a part only where nothing stands between.
        held = jax.lax.optimization_barrier(jax.lax.with_sharding_constraint(gradients, shardings.trained))
        return jax.tree.map(lambda x: x.astype(jnp.float32), held)

    step_fn = jax.jit(
        make_step(loss, optimizer, config.optim, gather, scatter),
        in_shardings=(shardings, None, None),  # a batch comes laid out
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
    return step_fn, described, lambda: create_state(*parts, mesh)
