"""Going on from a checkpoint: what it must agree with before a run may call itself the same."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from champ_jax.checkpoint import store
from champ_jax.config import to_plain
from champ_jax.errors import UserError
from champ_jax.models.animator import AnimatorConfig
from champ_jax.parallel.multihost import is_first
from champ_jax.train.assemble import Assembled, geometry_of
from champ_jax.train.feed import Feed
from champ_jax.train.state import TrainState, state_layout

RESUMES = ("auto", "changed", "never")
FREE = ("log.", "mesh.", "sampling.", "optim.steps", "data.directory", "data.cache", "init_from", "init.", "model.")
"""Values that a run may change when it goes on: where and how it runs, and for how long. Weights and geometry are compared
by content, the data by its number of clips."""
SHOWN = 10


def describe_run(config, assembled: Assembled, feed: Feed, step: int) -> dict[str, Any]:
    """What a checkpoint says of its run besides the arrays."""
    return {
        "config": to_plain(config),
        "data": feed.get_state(step),
        "model": assembled.described,
        "frozen": assembled.frozen_hash,
    }


def start(config, assembled: Assembled, workdir: Path, resume: str, described, new_state, feed: Feed, mesh) -> tuple[TrainState, int]:
    """State and number of steps done: from the newest valid checkpoint, or the beginning.

    Raises UserError when the checkpoint is of another run: other frozen weights, another geometry, values of the
    configuration that change what is trained (unless resume is "changed"), or when resume is "never" and there is one.
    """
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), described, state_layout(described, mesh)
    )
    directory = workdir / "checkpoints"
    if resume == "never" and (steps := store.steps(directory)):
        raise UserError(f"{workdir} already holds checkpoints (step {steps[-1]}): give another workdir, or --resume auto")
    found = store.restore_newest(directory, abstract)
    if found is None:
        return new_state(), 0
    state, meta, step = found
    if meta["frozen"] != assembled.frozen_hash or _numbers(meta["model"]) != _numbers(assembled.described):
        raise UserError(
            f"step {step} of {workdir} was trained with other frozen weights or another geometry than config.model and "
            "config.init_from now give: put those back, or give another workdir"
        )
    changed = differences(meta["config"], to_plain(config))
    refused = [line for line in changed if not line.startswith(FREE)]
    if refused and resume != "changed":
        more = f" and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
        raise UserError(
            f"step {step} of {workdir} was trained with another configuration: {'; '.join(refused[:SHOWN])}{more}. "
            "Put the values back, go on all the same with --resume changed, or give another workdir"
        )
    if is_first():
        print(f"going on from step {step} of {workdir}{', with ' + '; '.join(changed) if changed else ''}", flush=True)
    if step < config.optim.steps:
        feed.set_state(step, meta["data"])
    return state, step


def _numbers(described: dict) -> AnimatorConfig:
    """The geometry without what changes memory alone."""
    geometry = geometry_of(described)
    return dataclasses.replace(geometry, unet=dataclasses.replace(geometry.unet, remat=False))


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """'a.b old -> new' for every value in which two plain configurations differ; one that is not there is 'none'."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key} {'none' if before is None else before} -> {'none' if after is None else after}")
    return lines
