"""A step compiled in two parts, where the whole would take too long: what one device computes, and what all exchange.

The first part is the loss and its gradient of one device's share of the batch; it does not depend on how many devices there are.
The second is the step without its loss: parameters gathered, gradients summed, optimiser and average updated. Of parameters
with equal shapes one is compiled, and counted as often as there are.
"""

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from champ_jax.parallel.ahead import Program, compile_lowered
from champ_jax.parallel.mesh import batch_sharding
from champ_jax.train.compiled import compile_step, loss_of
from champ_jax.train.state import combine, state_layout
from champ_jax.trees import flatten, unflatten

ROWS = 16
"""Rows of the stand-in for activations that each device multiplies with every parameter."""


def placed(tree: Any, shardings: Any) -> Any:
    """Shapes with shardings: a tree of the first, and a tree of the second or one for all."""
    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings), tree)
    return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree, shardings)


def narrowed(trained: Any, dtype: Any) -> Any:
    """Shapes of the trained parameters as a step computes with them: matrices in the compute dtype."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype) if leaf.ndim > 1 else leaf.dtype), trained)


def lower_compute(config, assembled, state, batch, device):
    """The loss and its gradient of `batch` (shapes, one device's share), lowered for one device.

    As in the whole step, parameters come into being inside the program and gradients leave it as a small part of themselves,
    so that the compiler keeps either only as long as they are needed; the barriers stand where the collectives would.
    """
    loss, barrier = loss_of(config, assembled), jax.lax.optimization_barrier
    wanted = narrowed(state.trained, config.compute_dtype)

    def compute(seeds, frozen, batch, step):
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        trained = jax.tree.map(lambda seed, leaf: barrier(jnp.broadcast_to(seed, leaf.shape)), seeds, wanted)
        (value, metrics), gradients = jax.value_and_grad(lambda t: loss(combine(t, frozen), batch, key, step), has_aux=True)(trained)
        return jax.tree.map(lambda gradient: barrier(gradient).at[(0,) * gradient.ndim].get(), gradients), {"loss": value, **metrics}

    seeds = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((), leaf.dtype), wanted)
    arguments = (seeds, state.frozen, batch, jax.ShapeDtypeStruct((), jnp.int32))
    return jax.jit(compute).lower(*placed(arguments, SingleDeviceSharding(device)))


def groups(trained: Any) -> dict[int, dict[str, Any]]:
    """{how many parameters have its shape: {path: shape}} of one parameter of each shape."""
    alike = defaultdict(list)
    for path, leaf in flatten(trained).items():
        alike[tuple(leaf.shape)].append((path, leaf))
    by_count: dict[int, dict[str, Any]] = defaultdict(dict)
    for found in alike.values():
        by_count[len(found)][found[0][0]] = found[0][1]
    return dict(by_count)


def lower_exchange(config, assembled, mesh, chosen: dict[str, Any]):
    """The step of the parameters {path: shape} alone, with a loss that costs next to nothing, lowered for the mesh."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.optim.accumulation = 1
    dtype = jnp.dtype(config.compute_dtype)

    def loss(params, batch, key, step):
        total = jnp.zeros(())
        for leaf in jax.tree.leaves(params):
            x = batch[str(_width(leaf))]
            # Products, as in the model, so that nothing but the whole parameter will do.
            out = jnp.tanh(jnp.einsum("ri,...io->r...o", x, leaf)) if leaf.ndim > 1 else x * leaf
            total += out.astype(jnp.float32).mean()
        return total, {}

    part = dataclasses.replace(assembled, params=unflatten(chosen))
    step, described, _ = compile_step(config, part, mesh, loss)
    widths = {_width(leaf) for leaf in chosen.values()}
    batch = {str(width): jax.ShapeDtypeStruct((ROWS * mesh.size, width), dtype) for width in widths}
    return step.lower(placed(described, state_layout(described, mesh)), placed(batch, batch_sharding(mesh)), 0)


def _width(leaf) -> int:
    """Inputs of a kernel, or the length of a vector."""
    return leaf.shape[-2] if leaf.ndim > 1 else leaf.size


def compile_parts(config, assembled, mesh, state, share, device, targets: tuple[str, str], cache: Path | None, say) -> Program:
    """Both parts as one program's figures.

    Args:
      state: shapes with shardings. share: one device's share of a batch (of one of `accumulation` slices).
      device: to compile the first part for. targets: names of the device's topology and of the mesh's.
    """
    repeats = config.optim.accumulation
    say("part 1 of 2: loss and gradient of one device's share")
    compute = compile_lowered(lower_compute(config, assembled, state, share, device), targets[0], cache, say)
    if not compute.fits:
        return compute
    flops, moved, code = repeats * compute.flops, repeats * compute.bytes, compute.code
    seconds, collectives = compute.seconds, []
    say("part 2 of 2: exchange and update")
    for count, chosen in sorted(groups(state.trained).items()):
        part = compile_lowered(lower_exchange(config, assembled, mesh, chosen), targets[1], cache, say)
        flops, moved = flops + count * part.flops, moved + count * part.bytes
        code, seconds = code + part.code, seconds + part.seconds
        for one in part.collectives:
            times = one.times * count * (repeats if one.purpose == "summed" else 1)
            collectives.append(one._replace(times=times))
    return Program(
        fits=True,
        needed=0.0,
        temporaries=compute.temporaries,
        code=code,
        flops=flops,
        bytes=moved,
        seconds=seconds,
        collectives=tuple(collectives),
    )
