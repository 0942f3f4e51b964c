"""One training step: a pure function from (state, batch) to (state, metrics)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from champ_jax.train.optim import update_ema
from champ_jax.train.state import Guard, TrainState, combine

Batch = dict[str, Any]
SPIKE, WARMUP, DECAY = 20.0, 50, 0.98
"""A gradient whose norm is over SPIKE times its moving average (of this decay) is a spike, after so many updates."""
LossFn = Callable[[dict, Batch, jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def _mean_over_microbatches(grad_fn, trained, frozen, batch, key, step, accumulation: int):
    """Gradients and metrics averaged over `accumulation` equal slices of the batch, one slice in memory at a time."""
    if accumulation == 1:
        return grad_fn(trained, frozen, batch, key, step)
    # Every accumulation-th sample makes a slice, so that each slice is split over the devices as the batch is.
    slices = jax.tree.map(lambda x: x.reshape((-1, accumulation) + x.shape[1:]).swapaxes(0, 1), batch)
    keys = jax.random.split(key, accumulation)
    first = jax.eval_shape(grad_fn, trained, frozen, jax.tree.map(lambda x: x[0], slices), keys[0], step)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)

    def add(total, slice_and_key):
        return jax.tree.map(jnp.add, total, grad_fn(trained, frozen, *slice_and_key, step)), None

    total, _ = jax.lax.scan(add, zeros, (slices, keys))
    return jax.tree.map(lambda x: x / accumulation, total)


def judge(guard: Guard, loss: jax.Array, norm: jax.Array) -> tuple[jax.Array, Guard]:
    """Whether an update may be made (a bool scalar), and the guard after it.

    It may when loss and gradients are finite and the norm is no spike. The average follows spikes too, up to SPIKE times
    itself, so that a loss that stays higher, because a term joins it, is accepted after a few steps.
    """
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    spike = (guard.accepted >= WARMUP) & (norm > SPIKE * guard.norm)
    ok = finite & ~spike
    first = guard.norm == 0
    followed = DECAY * guard.norm + (1 - DECAY) * jnp.minimum(norm, SPIKE * guard.norm)
    average = jnp.where(finite, jnp.where(first, norm, followed), guard.norm)
    skipped = (~ok).astype(jnp.int32)
    return ok, Guard(average, guard.accepted + 1 - skipped, (guard.in_row + 1) * skipped, guard.skipped + skipped)


def make_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    optim_config,
    gather: Callable[[Any], Any] = lambda trained: trained,
    scatter: Callable[[Any], Any] = lambda gradients: gradients,
):
    """Builds `step(state, batch, seed) -> (state, metrics)`, to be jitted by the caller with its shardings.

    gather makes of masters, which lie in parts, the parameters that the loss reads; scatter brings their gradients into
    the masters' layout and dtype, so that each device sums and updates its part alone (ZeRO-1, arXiv 1910.02054).
    Randomness is a function of (seed, step) only, so a resumed run draws what the unbroken one would have drawn; the seed
    is an argument, so that runs which differ in nothing else are one compiled program.
    An update that `judge` refuses leaves parameters, optimiser and average bit for bit as they were; "skipped" and
    "skipped_in_row" among the metrics count them.
    """

    def loss(trained, frozen, batch, key, step):
        return loss_fn(combine(trained, frozen), batch, key, step)

    def grad_fn(*args):
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(*args)
        return scatter(grads), {"loss": value, **metrics}

    def step(state: TrainState, batch: Batch, seed: int | jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        grads, metrics = _mean_over_microbatches(
            grad_fn, gather(state.trained), state.frozen, batch, key, state.step, optim_config.accumulation
        )
        norm = optax.tree.norm(grads)
        ok, guard = judge(state.guard, metrics["loss"], norm)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.trained)
        trained = optax.apply_updates(state.trained, updates)
        ema = update_ema(state.ema, trained, state.step, optim_config.ema)
        new, old = (trained, optimizer_state, ema), (state.trained, state.optimizer, state.ema)
        trained, optimizer_state, ema = jax.tree.map(lambda after, before: jnp.where(ok, after, before), new, old)
        metrics |= {"gradient_norm": norm, "skipped": guard.skipped, "skipped_in_row": guard.in_row}
        return TrainState(state.step + 1, trained, state.frozen, optimizer_state, ema, guard), metrics

    return step
