"""A run planned before it costs anything: the step of `compiled.py` compiled for hardware that is not here, and what follows."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from champ_jax.data.describe import describe_batch
from champ_jax.errors import UserError
from champ_jax.nn.kernels import MAX_LOGITS
from champ_jax.parallel import collectives, flops, roofline
from champ_jax.parallel.ahead import CACHE, Program, compile_lowered
from champ_jax.parallel.chips import Chip, count, describe_devices, parse_topology
from champ_jax.parallel.mesh import batch_layout, check_batch, make_mesh
from champ_jax.parallel.sharding import layout
from champ_jax.train.assemble import Assembled, assemble_abstract
from champ_jax.train.compiled import compile_step
from champ_jax.train.state import TrainState, state_layout

SAFE = 0.9
"""Share of a chip's memory that a plan may take."""
CLOSE = 0.05
"""How far the bytes of collectives may be from the formula."""


@dataclasses.dataclass(frozen=True)
class Traced:
    """The step of a run on a mesh of devices, traced and not yet compiled.

    state and batch carry their shardings; operations are of the whole mesh, kept (bytes that the forward pass
    leaves for the backward one) of one device; lowered is what the compiler takes.
    """

    config: Any
    assembled: Assembled
    mesh: Any
    state: TrainState
    batch: dict[str, Any]
    operations: flops.Flops
    kept: float
    lowered: Any


def batch_of(config, assembled: Assembled) -> dict[str, Any]:
    """Shapes and dtypes of the run's batches, as its loader makes them."""
    data, geometry, image = config.data, assembled.config, config.stage != "A"
    music, face = (geometry.m2p.music_dim, geometry.m2p.face_dim) if geometry.m2p else (0, 512)
    cells = data.size // geometry.vae.downsampling
    shapes = describe_batch(
        config.stage,
        batch_size=data.batch_size,
        frames=data.frames,
        size=data.size,
        kinds=geometry.kinds if image else (),
        motion_frames=data.get("motion_frames", 0) if geometry.m2p and config.stage == "B" else 0,
        music_dim=music,
        face_dim=face,
        latents=(cells, geometry.vae.latent_channels) if image and data.latent_cache else None,
    )
    return jax.tree.map(lambda entry: jax.ShapeDtypeStruct(*entry), shapes, is_leaf=lambda entry: isinstance(entry, tuple))


def _placed(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree, shardings)


def trace(config, chip: Chip, devices: list) -> Traced:
    """Traces the step that training would run on these devices.

    Raises:
      UserError: a mesh that does not fit them, or a batch that cannot be split over them.
    """
    mesh = make_mesh(config.mesh, devices)
    assembled = assemble_abstract(config)
    step, described, _ = compile_step(config, assembled, mesh)
    batch = batch_of(config, assembled)
    check_batch(batch, mesh)
    arguments = _placed(described, state_layout(described, mesh)), _placed(batch, batch_layout(batch, mesh))
    traced = step.trace(*arguments)
    operations = flops.count(traced.jaxpr, chip.unit)
    kept = flops.kept(traced.jaxpr, len(jax.tree.leaves(described))) / mesh.size / config.optim.accumulation
    return Traced(config, assembled, mesh, *arguments, operations, kept, traced.lower())


def stand_ins(count: int) -> list:
    """Devices to lay arrays out on where there is no compiler: those of this process, which must be enough.

    Raises:
      UserError: too few of them.
    """
    devices = jax.devices()
    if len(devices) < count:
        raise UserError(f"planning without a compiler needs {count} stand-ins: set XLA_FLAGS=--xla_force_host_platform_device_count={count}")
    return devices[:count]


def held(tree: Any) -> int:
    """Bytes that one device holds of a tree of shapes with shardings."""
    return sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def gathered_bytes(traced: Traced) -> int:
    """Bytes of the parameters that a step computes its gradients of, as one device holds them."""
    dtype, layouts = jnp.dtype(traced.config.compute_dtype), layout(traced.state.trained, traced.mesh, "compute")
    narrow = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, dtype if leaf.ndim > 1 else leaf.dtype, sharding=sharding),
        traced.state.trained, layouts,
    )  # fmt: skip
    return held(narrow)


def memory_table(traced: Traced, program: Program, chip: Chip) -> dict[str, float]:
    """Bytes of one device by what they are for; `share` is of what a program may take."""
    state = traced.state
    arguments = {
        "parameters": held(state.trained) + held(state.frozen),
        "average": held(state.ema),
        "optimiser": held(state.optimizer),
        "batch": held(traced.batch),
    }
    if not program.fits:
        return {**arguments, "total": program.needed, "usable": chip.usable, "share": program.needed / chip.usable}
    # Arrays are padded to whole tiles, and what the step does not read it is not given.
    rest = program.needed - sum(arguments.values()) - program.code
    copies = min(max(rest, 0), 2 * gathered_bytes(traced))
    activations = min(rest - copies, traced.kept)
    return {
        **arguments,
        "gathered": copies,
        "activations": activations,
        "temporaries": rest - copies - activations,
        "code": program.code,
        "total": program.needed,
        "usable": chip.usable,
        "share": program.needed / chip.usable,
    }


def collective_table(traced: Traced, program: Program) -> dict[str, dict[str, Any]]:
    """{purpose: {"bytes" of the program, "formula", "kinds": {kind: bytes}}} of a step."""
    expected = collectives.formula(traced.state.trained, traced.mesh, traced.config.compute_dtype, traced.config.optim.accumulation)
    if program.fits and not program.flops:  # estimated, not compiled
        return {purpose: {"bytes": size, "formula": size, "kinds": {}} for purpose, size in expected.items()}
    table = {}
    for purpose in collectives.PURPOSES:
        kinds = collectives.totals(one for one in program.collectives if one.purpose == purpose)
        size = sum(row["bytes"] for row in kinds.values())
        table[purpose] = {"bytes": size, "formula": expected.get(purpose, 0), "kinds": kinds}
    return table


def travelling(exchange: dict[str, dict[str, Any]]) -> tuple[float, float, float]:
    """Bytes (gathered, scattered, summed) as links carry them: by how the compiler spells them, else by the formula."""
    kinds: dict[str, int] = {}
    for row in exchange.values():
        for kind, found in row["kinds"].items():
            kinds[kind] = kinds.get(kind, 0) + found["bytes"]
    if not kinds:
        return exchange["gathered"]["formula"], exchange["summed"]["formula"], 0
    return kinds.get("all-gather", 0), kinds.get("reduce-scatter", 0), kinds.get("all-reduce", 0)


def plan(config, topology: str, slices: int = 1, price: float = 0.0, cache: Path | None = CACHE, say=lambda text: None) -> dict[str, Any]:
    """Everything that can be said of a run on `slices` slices of a topology, as a plain dict that JSON can hold.

    Raises:
      UserError: no compiler, an unknown topology, a mesh or a batch that does not fit it.
    """
    chip, _ = parse_topology(topology)
    if not chip.compiles:
        traced = trace(config, chip, stand_ins(count(topology, slices)))
        return report(traced, estimate(traced), chip, topology, slices, price)
    traced = trace(config, chip, describe_devices(topology, slices))
    program = compile_lowered(traced.lowered, f"{topology} x {slices}" if slices > 1 else topology, cache, say)
    return report(traced, program, chip, topology, slices, price)


def estimate(traced: Traced) -> Program:
    """What is known of a step without its compiler: nothing of temporaries and traffic but what its arrays say.

    Memory: state, batch, gathered parameters and their gradients, what the forward pass keeps, and logits of one attention twice.
    """
    state, gathered = traced.state, gathered_bytes(traced)
    arguments = held(state) + held(traced.batch)
    temporaries = 2 * gathered + traced.kept + 2 * 4 * MAX_LOGITS
    needed = float(arguments + temporaries)
    moved = 3.0 * gathered + 2.0 * held(state) + 6.0 * traced.kept
    return Program(True, needed, arguments=arguments, temporaries=int(temporaries), bytes=moved)


def report(traced: Traced, program: Program, chip: Chip, topology: str, slices: int, price: float) -> dict[str, Any]:
    """The plan that follows from a traced and compiled step; see `plan`."""
    config, chips = traced.config, traced.mesh.size
    memory, exchange = memory_table(traced, program, chip), collective_table(traced, program)
    per_chip = flops.Flops(*(value / chips for value in traced.operations))
    travels = travelling(exchange)
    moved = program.bytes + per_chip.loops
    time = roofline.step_time(chip, per_chip.padded, moved, roofline.exchange_time(chip, chips, *travels))
    return {
        "stage": config.stage,
        "topology": topology,
        "slices": slices,
        "chips": chips,
        "batch": config.data.batch_size,
        "compiled": bool(program.flops) or not program.fits,
        "fits": program.fits and memory["share"] <= SAFE,
        "memory": memory,
        "collectives": exchange,
        "unplanned": [f"{one.kind} of {one.bytes} bytes: {one.text[:200]}" for one in collectives.unplanned(program.collectives)],
        "flops": {**per_chip._asdict(), "compiler": program.flops, "ceiling": per_chip.ceiling, "bytes": moved},
        "time": {**time._asdict(), "mfu": per_chip.model / chip.peak / time.expected, "best_mfu": per_chip.model / chip.peak / time.floor},
        "scaling": roofline.weak_scaling(chip, time.floor, *travels),
        "assumptions": roofline.ASSUMPTIONS,
        "cost": roofline.cost(time.expected, config.optim.steps, chips, price),
    }


def advise(config, chips: int, planned, enough: int = 3) -> list[tuple[tuple[str, ...], float]]:
    """Overrides with which a run that does not fit would, and the share of memory that each then takes.

    Single changes are tried before pairs, cheap ones first; `planned(*overrides)` makes the plan of each, so that what is
    said is checked.
    """
    singles = [(word,) if isinstance(word, str) else word for word in _changes(config, chips)]
    pairs = [a + b for i, a in enumerate(singles) for b in singles[i + 1 :] if not {w.split("=")[0] for w in a} & {w.split("=")[0] for w in b}]
    found: list[tuple[tuple[str, ...], float]] = []
    for words in singles + pairs:
        try:
            result = planned(*words)
        except UserError:
            continue  # a value that this run cannot have
        if result["fits"]:
            found.append((words, result["memory"]["share"]))
        if len(found) == enough:
            break
    return found


def _changes(config, chips: int) -> list[Any]:
    """Single changes that save memory, as overrides of values that this configuration has."""
    data, optim, mesh = config.data, config.optim, config.mesh
    changes: list[Any] = []
    if not config.model.get("unet", {}).get("remat", True):
        changes.append("--config.model.unet.remat=true")
    if not data.get("latent_cache", True):
        changes.append(("--config.data.latent_cache=true", "--config.data.augment=none"))
    parts = chips // math.prod(mesh.get(axis, 1) for axis in ("context", "tensor"))
    rows = data.batch_size // optim.accumulation // parts
    factors = [factor for factor in (2, 4, 8) if rows % factor == 0]
    changes += [f"--config.optim.accumulation={optim.accumulation * factor}" for factor in factors]
    changes += [f"--config.data.batch_size={data.batch_size // factor}" for factor in factors]
    if "fsdp" in mesh:
        changes += [f"--config.mesh.fsdp={size}" for size in (4, 16) if chips % size == 0 and size > mesh.fsdp]
    if config.stage == "C" and mesh.get("context", 0) == 1:
        changes += [f"--config.mesh.context={size}" for size in (2, 4) if chips % size == 0 and data.frames % size == 0]
    return changes
