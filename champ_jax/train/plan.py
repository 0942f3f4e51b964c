"""A run planned before it costs anything: the step of `compiled.py` compiled for hardware that is not here, and what follows."""

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
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
from champ_jax.train.parts import compile_parts, narrowed, placed
from champ_jax.train.stages import STAGES
from champ_jax.train.state import TrainState, state_layout

SAFE = 0.9
"""Share of a chip's memory that a plan may take."""
LARGE = 100_000_000
"""Trained parameters from which on a step is compiled in parts."""


@dataclasses.dataclass(frozen=True)
class Traced:
    """The step of a run on a mesh of devices, traced and not yet compiled.

    state and batch carry their shardings; operations are of the whole mesh, kept (bytes that the forward pass
    leaves for the backward one) of one device; step can be lowered.
    """

    config: Any
    assembled: Assembled
    mesh: Any
    state: TrainState
    batch: dict[str, Any]
    operations: flops.Flops
    kept: float
    step: Any


def batch_of(config, assembled: Assembled) -> dict[str, Any]:
    """Shapes and dtypes of the run's batches, as its loader makes them."""
    data, geometry, image = config.data, assembled.config, config.stage != "A"
    music, face = (geometry.m2p.music_dim, geometry.m2p.face_dim) if geometry.m2p else (0, 512)
    face = geometry.face_id.embedding if geometry.face_id else face
    encoded = None
    if image and data.latent_cache:
        encoded = data.size // geometry.vae.downsampling, geometry.vae.latent_channels, geometry.clip.projection if geometry.clip else 0
    shapes = describe_batch(
        STAGES[config.stage].batches,
        batch_size=data.batch_size,
        frames=data.frames,
        size=data.size,
        kinds=geometry.kinds if image else (),
        motion_frames=data.get("motion_frames", 0) if geometry.m2p and config.stage == "B" else 0,
        music_dim=music,
        face_dim=face,
        encoded=encoded,
        references=data.get("references", 1),
    )
    return jax.tree.map(lambda entry: jax.ShapeDtypeStruct(*entry), shapes, is_leaf=lambda entry: isinstance(entry, tuple))


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
    arguments = placed(described, state_layout(described, mesh)), placed(batch, batch_layout(batch, mesh))
    traced = step.trace(*arguments, 0)
    operations = flops.count(traced.jaxpr, chip.unit)
    kept = flops.kept(traced.jaxpr, len(jax.tree.leaves(described))) / mesh.size / config.optim.accumulation
    return Traced(config, assembled, mesh, *arguments, operations, kept, traced)


def stand_ins(count: int) -> list:
    """Devices to lay arrays out on where there is no compiler for the real ones: so many of this machine's.

    Raises:
      UserError: it has fewer, and JAX is already running, so that it cannot pretend to have more.
    """
    with contextlib.suppress(RuntimeError):  # JAX runs already, perhaps with enough of them
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices()
    if len(devices) < count:
        raise UserError(f"this needs {count} stand-ins for devices: set XLA_FLAGS=--xla_force_host_platform_device_count={count}")
    return devices[:count]


def held(tree: Any) -> int:
    """Bytes that one device holds of a tree of shapes with shardings."""
    return sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def gathered_bytes(traced: Traced) -> int:
    """Bytes of the parameters that a step computes its gradients of, as one device holds them."""
    trained = traced.state.trained
    return held(placed(narrowed(trained, traced.config.compute_dtype), layout(trained, traced.mesh, "compute")))


def memory_table(traced: Traced, program: Program, chip: Chip) -> dict[str, float]:
    """Bytes of one device by what they are for; `share` is of what a program may take."""
    state = traced.state
    arguments = {
        "parameters": held(state.trained) + held(state.frozen),
        "average": held(state.ema),
        "optimiser": held(state.optimizer),
        "batch": held(traced.batch),
    }
    if not program.temporaries:  # refused for its memory
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
    if not program.collectives:  # estimated, not compiled
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


def plan(
    config,
    topology: str,
    slices: int = 1,
    price: float = 0.0,
    whole: bool | None = None,
    cache: Path | None = CACHE,
    say=lambda text: None,
) -> dict[str, Any]:
    """Everything that can be said of a run on `slices` slices of a topology, as a plain dict that JSON can hold.

    Args:
      price: money for each chip and hour.
      whole: whether to compile the step as one program; by default where it trains fewer than `LARGE` parameters, or its
        mesh splits more than the batch.

    Raises:
      UserError: no compiler, an unknown topology, a mesh or a batch that does not fit it.
    """
    chip, _ = parse_topology(topology)
    if not chip.compiles:
        traced = trace(config, chip, stand_ins(count(topology, slices)))
        return report(traced, estimate(traced), chip, topology, slices, price)
    traced = trace(config, chip, describe_devices(topology, slices))
    divided = any(traced.mesh.shape[axis] > 1 for axis in ("fsdp", "context", "tensor"))
    if whole is None:
        whole = divided or sum(leaf.size for leaf in jax.tree.leaves(traced.state.trained)) < LARGE
    if divided and not whole:
        raise UserError("a step whose mesh has fsdp, context or tensor compiles as a whole only")
    target = f"{topology} x {slices}" if slices > 1 else topology
    if whole:
        program = compile_lowered(traced.step.lower(), target, cache, say)
    else:
        program = in_parts(traced, chip, target, cache, say)
    return {**report(traced, program, chip, topology, slices, price), "whole": whole}


def in_parts(traced: Traced, chip: Chip, target: str, cache: Path | None, say) -> Program:
    """The step compiled in two parts (see parts.py), with the memory of both together."""
    config = traced.config.copy_and_resolve_references()
    with config.unlocked():
        config.data.batch_size //= traced.mesh.size * config.optim.accumulation
    share, device = batch_of(config, traced.assembled), describe_devices(chip.smallest)[0]
    targets = chip.smallest, target
    program = compile_parts(config, traced.assembled, traced.mesh, traced.state, share, device, targets, cache, say)
    if program.fits:
        arguments = held(traced.state) + held(traced.batch)
        sums = held(traced.state.trained) if config.optim.accumulation > 1 else 0
        program = dataclasses.replace(program, arguments=arguments, needed=float(arguments + sums + program.temporaries + program.code))
    else:  # the first part alone is too much; masters, average and optimiser come on top
        state = traced.state
        program = dataclasses.replace(program, needed=program.needed + held((state.trained, state.ema, state.optimizer)))
    return program if program.needed <= chip.usable else dataclasses.replace(program, fits=False)


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
    # Loops are attention in chunks, whose logits go through memory; a GPU's fused attention has neither.
    moved = program.bytes + (per_chip.loops if chip.compiles else 0)
    time = roofline.step_time(chip, per_chip.padded, moved, roofline.exchange_time(chip, chips, *travels))
    return {
        "stage": config.stage,
        "topology": topology,
        "slices": slices,
        "chips": chips,
        "batch": config.data.batch_size,
        "compiled": chip.compiles,
        "fits": program.fits and memory["share"] <= SAFE,
        "memory": memory,
        "collectives": exchange,
        "unplanned": [f"{one.kind} of {one.bytes} bytes: {one.text[:200]}" for one in collectives.unplanned(program.collectives)],
        "flops": {**per_chip._asdict(), "compiler": program.flops, "ceiling": per_chip.ceiling, "bytes": moved},
        "time": {**time._asdict(), "mfu": per_chip.model / chip.peak / time.expected, "best_mfu": per_chip.model / chip.peak / time.floor},
        "scaling": roofline.weak_scaling(chip, time.alone, *travels),
        "assumptions": roofline.ASSUMPTIONS,
        "cost": roofline.cost(time.expected, config.optim.steps, chips, price),
    }


def advise(config, chips: int, planned, enough: int = 3) -> list[tuple[tuple[str, ...], float]]:
    """Overrides with which a run that does not fit would, and the share of memory that each then takes.

    Single changes are tried before pairs, cheap ones first; `planned(*overrides)` makes the plan of each, so that what is
    said is checked.
    """
    singles = [(word,) if isinstance(word, str) else word for word in _changes(config, chips)]
    names = [{word.partition("=")[0] for word in words} for words in singles]
    pairs = [a + singles[j] for i, a in enumerate(singles) for j in range(i + 1, len(singles)) if not names[i] & names[j]]
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
    if STAGES[config.stage].batches == "C" and mesh.get("context", 0) == 1:
        changes += [f"--config.mesh.context={size}" for size in (2, 4) if chips % size == 0 and data.frames % size == 0]
    return changes
