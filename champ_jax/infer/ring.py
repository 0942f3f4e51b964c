"""The compiled side of sampling: a ring of the frames under way, and the loop that denoises windows of it.

Slots are reused, so nothing here has a shape that depends on the clip. Which window takes which step is said by `Orders`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from champ_jax.diffusion.guidance import classifier_free
from champ_jax.diffusion.samplers import SamplerState, sampler_step
from champ_jax.infer.wavefront import Round
from champ_jax.nn.kernels import shared_by

# denoise(params, latents [B,F,h,w,C], t [B], context [B,L,Dc], guidance [B,F,h,w,D0], person, frames) -> [B,F,h,w,C]. `person` and
# `frames` are trees of arrays [B,...] and [B,F,...], or None where no photo is seen. Where deeper features are kept it is also given
# those of an earlier step, [B,F,h,w,D1], or None, and True, and returns its own beside the prediction. Compared by identity for the
# compile cache: make it once.
Denoise = Callable[..., Any]


class FrameConditions(NamedTuple):
    """What is known about frames before they are drawn, on the host or the device.

    guidance: [m,h,w,D0], the fused output of the guidance encoders.
    frames: tree of arrays [m,...] of what photos say of each frame: which photo which cell reads, the face; None for nothing.
    """

    guidance: jax.Array | np.ndarray
    frames: Any = None


class Seen(NamedTuple):
    """What the photos say for the whole clip.

    person: tree of arrays [1,...]: keys and values by block, what each photo counts. context: [1,L,Dc], their image tokens.
    """

    person: Any
    context: jax.Array


class Static(NamedTuple):
    """What the compiled loop is specialised on; halves: whether those of guided rows go through as one batch."""

    guided: bool
    rescale: float
    noisy: bool
    cached: bool
    anchor: bool
    mesh: Mesh | None
    halves: bool


class Table(NamedTuple):
    """What each of S steps needs: timesteps i32 [S], mix f32 [S,2,6] of the sampler, scale and strength f32 [S], deep bool [S]."""

    t: np.ndarray
    mix: np.ndarray
    scale: np.ndarray
    strength: np.ndarray
    deep: np.ndarray


class Ring(NamedTuple):
    """Frames under way, frame f in slot f % L; slot L holds frame 0 for anchored windows.

    state: SamplerState of [L,h,w,C]. total: [L,h,w,C], the predictions of this step so far. number: i32 [L], which frame it is.
    given: FrameConditions of [L+1,...]. anchors: [S,h,w,C], frame 0 before each step, or None. deep: one or two (guided) arrays
    [L,h,w,D1], or None.
    """

    state: SamplerState
    total: jax.Array
    number: jax.Array
    given: FrameConditions
    anchors: jax.Array | None
    deep: tuple[jax.Array, ...] | None


class Orders(NamedTuple):
    """`Round`s for the device, stacked: slots, weights, main as there; step i32 [P]; advance i32 [L], the step that slot takes or -1;
    active bool, False for rounds that only fill up."""

    slots: np.ndarray
    weights: np.ndarray
    main: np.ndarray
    step: np.ndarray
    advance: np.ndarray
    active: np.ndarray


def window_mesh() -> Mesh | None:
    """This process's devices in a row, which windows are shared out over; None for a single one."""
    devices = jax.local_devices()
    return Mesh(np.asarray(devices), ("windows",)) if len(devices) > 1 else None


def on_each_device(tree: Any, mesh: Mesh | None) -> Any:
    """The arrays of a tree, whole on every device of the mesh."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def empty_ring(slots: int, noise, given: FrameConditions, denoise: Denoise, params, seen: Seen, steps: int, static: Static) -> Ring:
    """A ring of nothing, for frames like these: noise [m,h,w,C] and what is given of them."""
    shape = noise.shape[1:]
    kept = jax.tree.map(lambda x: jnp.zeros((slots + 1, *x.shape[1:]), x.dtype), given)
    anchors = jnp.zeros((steps, *shape)) if static.anchor else None
    deep = None
    if static.cached:
        row = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), (noise, given))
        t = jax.ShapeDtypeStruct((1,), jnp.int32)
        asked = (params, row[0], t, seen.context, row[1].guidance, seen.person, row[1].frames)
        _, found = jax.eval_shape(lambda *asked: denoise(*asked, None, True), *asked)
        deep = tuple(jnp.zeros((slots, *found.shape[2:]), found.dtype) for _ in range(1 + static.guided))
    state = SamplerState(*(jnp.zeros((slots, *shape)) for _ in SamplerState._fields))
    ring = Ring(state, jnp.zeros((slots, *shape)), jnp.zeros((slots,), jnp.int32), kept, anchors, deep)
    return on_each_device(ring, static.mesh)


@partial(jax.jit, donate_argnames="ring")
def put(ring: Ring, frames: jax.Array, noise: jax.Array, given: FrameConditions) -> Ring:
    """Puts frames [m], with noise [m,h,w,C] and what is given of them, into their slots."""
    slots = len(ring.number)
    index = frames % slots
    put = lambda old, new: old.at[index].set(jnp.asarray(new, old.dtype))  # noqa: E731
    begun = frames[0] == 0
    kept = jax.tree.map(put, ring.given, given)
    kept = jax.tree.map(lambda x: x.at[slots].set(jnp.where(begun, x[0], x[slots])), kept)
    anchors = ring.anchors
    if anchors is not None:
        anchors = anchors.at[0].set(jnp.where(begun, noise[0], anchors[0]))
    state = SamplerState(put(ring.state.x, noise), *(put(old, jnp.zeros_like(noise)) for old in ring.state[1:]))
    return ring._replace(state=state, number=put(ring.number, frames), given=kept, anchors=anchors)


@jax.jit
def take(x: jax.Array, index: jax.Array) -> jax.Array:
    """x [L,...] at slots index [m]: [m,...]."""
    return x[index]


def make_orders(taken: list[Round], slots: int, size: int) -> Orders:
    """Rounds for the device, filled up to `size`."""
    orders = []
    for each in taken:
        advance = np.full(slots, -1, np.int32)
        for first, last, step in each.advance:
            advance[np.arange(first, last) % slots] = step
        index = (each.frames % slots).astype(np.int32)
        orders.append(Orders(index, each.weights, each.main, each.step.astype(np.int32), advance, np.True_))
    nothing = orders[-1]._replace(advance=np.full(slots, -1, np.int32), active=np.False_)
    return Orders(*(np.stack(parts) for parts in zip(*orders, *[nothing] * (size - len(taken)))))


@partial(jax.jit, static_argnames=("denoise", "static"), donate_argnames="ring")
def run_orders(denoise, static: Static, schedule, table: Table, params, seen: Seen, ring: Ring, orders: Orders, seed) -> Ring:
    """Carries out orders [M,...] one after another; seed: u32, of the noise that some samplers add."""
    table = jax.tree.map(jnp.asarray, table)
    key = jax.random.key(seed)

    def work(moving: dict, order: Orders) -> dict:
        now = _predict(denoise, static, table, params, seen, ring._replace(**moving), order)
        now = _advance(static, schedule, table, now, order.advance, key)
        return {name: getattr(now, name) for name in moving}

    def one(moving, order):
        return jax.lax.cond(order.active, work, lambda moving, order: moving, moving, order), None

    # What does not change is left out of the loop's state, which the compiler may copy.
    moving = {name: getattr(ring, name) for name in ("state", "total", "anchors", "deep")}
    with shared_by(1 if static.mesh is None else static.mesh.size):
        return ring._replace(**jax.lax.scan(one, moving, orders)[0])


def _predict(denoise, static: Static, table: Table, params, seen: Seen, ring: Ring, order: Orders) -> Ring:
    """Adds the guided predictions of a round's windows to the totals of their frames."""
    rows, step, slots = len(order.step), order.step, order.slots
    x = ring.state.x[slots]
    if static.anchor:
        # The first window has frame 0 itself.
        moved = ring.number[slots[:, 0]] > 0
        slots = slots.at[:, 0].set(jnp.where(moved, len(ring.number), slots[:, 0]))
        x = x.at[:, 0].set(jnp.where(moved[:, None, None, None], ring.anchors[step], x[:, 0]))
    given = jax.tree.map(lambda each: each[slots], ring.given)
    guidance = given.guidance * table.strength[step][:, None, None, None, None].astype(given.guidance.dtype)
    person, context = jax.tree.map(lambda each: jnp.repeat(each, rows, 0), tuple(seen))
    cond = (x, table.t[step], context, guidance, person, given.frames)
    kept = [None, None] if ring.deep is None else [deep[order.slots] for deep in ring.deep]
    run = partial(_run_network, partial(denoise, params), table.deep[step].any(), static)
    if not static.guided:
        predicted, *deep = run(cond, kept[0])
    elif static.halves:
        predicted, deep = _at_once(static, table.scale[step], run, cond, kept)
    else:
        predicted, deep = _in_turn(static, table.scale[step], run, cond, kept)
    share = order.weights[:, :, None, None, None]
    total = ring.total.at[order.slots].add(share * predicted.astype(jnp.float32))
    if static.cached:
        # Of overlapping windows the one that counts most for a frame leaves it its deeper features.
        where = jnp.where(order.main, order.slots, len(ring.number))
        deep = tuple(old.at[where].set(new.astype(old.dtype), mode="drop") for old, new in zip(ring.deep, deep))
    return ring._replace(total=total, deep=deep if static.cached else None)


def _in_turn(static: Static, scale, run, cond, kept):
    """The conditional half, then the unconditional one, without the photo's keys, if any window of the round is guided."""
    x, t, context, guidance, _, frames = cond
    where = {name: values for name, values in (frames or {}).items() if name == "weight"}
    blind = (x, t, jax.tree.map(jnp.zeros_like, context), guidance, None, where)
    first, deep = run(cond, kept[0])

    guided = (scale != 1).any()
    uncond, other = jax.lax.cond(guided, lambda: run(blind, kept[1]), lambda: (jnp.zeros_like(first), kept[1]))
    return _guided(static, scale, first, uncond), (deep, other)


def _at_once(static: Static, scale, run, cond, kept):
    """Both halves as one batch, for twice as many devices: the unconditional one has the photo's keys too, and none is seen."""
    x, t, context, guidance, person, frames = cond
    person = {**person, "weight": jnp.zeros_like(person["weight"])}
    blind = (x, t, jax.tree.map(jnp.zeros_like, context), guidance, person, frames)
    both, kept = jax.tree.map(lambda *halves: jnp.concatenate(halves), (cond, kept[0]), (blind, kept[1]))
    predicted, deep = run(both, kept)
    deep = (None, None) if deep is None else jnp.split(deep, 2)
    return _guided(static, scale, *jnp.split(predicted, 2)), deep


def _guided(static: Static, scale, cond, uncond):
    scale = scale[:, None, None, None, None]
    # Not by way of rounding: a step that is not guided is the conditional half, exactly.
    return jnp.where(scale == 1, cond.astype(jnp.float32), classifier_free(uncond, cond, scale, static.rescale))


def _run_network(denoise, refresh, static: Static, cond, kept):
    """Predictions of rows shared out over the mesh, and deeper features where they are kept: found anew or as they were."""
    if static.mesh is not None:
        rows = NamedSharding(static.mesh, PartitionSpec("windows"))
        cond, kept = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows), (cond, kept))
    if kept is None:
        return denoise(*cond), None
    return jax.lax.cond(refresh, lambda: denoise(*cond, None, True), lambda: denoise(*cond, kept, True))


def _advance(static: Static, schedule, table: Table, ring: Ring, advance, key) -> Ring:
    """Moves the slots that have all their predictions one step on; advance: i32 [L], the step taken, or -1."""
    step = jnp.maximum(advance, 0)
    noise = 0.0
    if static.noisy:
        shape = ring.state.x.shape[1:]
        keys = jax.vmap(lambda frame, step: jax.random.fold_in(jax.random.fold_in(key, frame), step))(ring.number, step)
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    after = sampler_step(schedule, table.mix[step], ring.state, ring.total, table.t[step], noise)
    moves = (advance >= 0)[:, None, None, None]
    state = jax.tree.map(lambda new, old: jnp.where(moves, new, old), after, ring.state)
    anchors = ring.anchors
    if anchors is not None:
        # Frame 0 lies in slot 0 until it is done, and windows that come later need what it was.
        first = (ring.number[0] == 0) & (advance[0] >= 0) & (advance[0] + 1 < len(anchors))
        index = jnp.where(first, advance[0] + 1, len(anchors))
        anchors = anchors.at[index].set(state.x[0], mode="drop")
    return ring._replace(state=state, total=jnp.where(moves, 0.0, ring.total), anchors=anchors)
