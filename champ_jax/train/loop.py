"""The training loop of every stage: next batch, step, log, evaluate, save."""

import math
import time
from pathlib import Path

import jax
import numpy as np

from champ_jax.checkpoint import store
from champ_jax.config import config_hash, write_record
from champ_jax.data.records import open_records
from champ_jax.diffusion.losses import SNR_FORMS
from champ_jax.errors import UserError
from champ_jax.parallel.mesh import make_mesh, shard_batch
from champ_jax.parallel.multihost import check_same, is_first, of_first
from champ_jax.train.assemble import Assembled, assemble, export_weights, geometry_of
from champ_jax.train.compiled import compile_step
from champ_jax.train.evaluation import Evaluation
from champ_jax.train.feed import Feed, standardise
from champ_jax.train.interrupt import Stopped, StopRequest
from champ_jax.train.log import MetricLog, ProgressLine, SilentLog
from champ_jax.train.stages import M2P_WEIGHTS, STAGES
from champ_jax.train.state import TrainState, state_layout

KEEP = 2  # newest checkpoints
COMPUTE_DTYPES = ("float32", "bfloat16")
POSITIVE = {
    "optim": ("steps", "accumulation"),
    "data": ("batch_size", "frames", "first_frames", "stride", "size"),
    "log": ("scalars", "evaluate", "save", "validation_batches"),
}


def train(config, workdir: str | Path, resume: str = "auto") -> dict:
    """Runs the stage that `config` describes to its last step, and leaves weights that `load_pipeline` reads.

    config: a locked ConfigDict as in configs/stage_b.py. workdir: gets checkpoints/, weights/, metrics.jsonl,
    TensorBoard files and samples/. resume: "auto" goes on from the newest valid checkpoint, "never" refuses a workdir
    that has one. Returns {"first", "last": validation losses, "steps", "seconds", "weights": path}.
    Raises UserError before any compilation for what the user can mend; Stopped (exit code 75 or 143) after Ctrl-C or a
    termination signal, once the state is saved.
    """
    workdir, started = Path(workdir), time.monotonic()
    check(config)
    records = open_records(config.data.directory, config.data.split, keep=config.data.cache)
    assembled = assemble(config, records)
    check_model(config, assembled)
    assembled = standardise(config, assembled, records)
    mesh = make_mesh(config.mesh)
    check_same(f"{config_hash(config)} {assembled.frozen_hash}", "the configuration, or a file of weights,")
    feed = Feed(config, assembled, records, workdir)
    evaluation = Evaluation(config, assembled, STAGES[config.stage], mesh)
    step_fn, described, new_state = compile_step(config, assembled, mesh)
    state, first = start(config, assembled, workdir, resume, described, new_state, feed, mesh)
    if is_first():
        write_record(config, workdir / "config.json")
    total, every = config.optim.steps, config.log
    with MetricLog(workdir, first, config.log.wandb) if is_first() else SilentLog() as log, StopRequest() as stop:
        if not of_first(len(log.validation)):
            evaluation.run(state, first, log, workdir)
        with ProgressLine(f"stage {config.stage}", first, total, shown=is_first()) as progress:
            for done in range(first + 1, total + 1):
                state, metrics = step_fn(state, shard_batch(feed.next(done - 1), mesh))
                last, stopped = done == total, stop.asked(done)
                logging, saving = done % every.scalars == 0 or last, done % every.save == 0 or last or stopped
                if logging or saving:
                    metrics = jax.device_get(metrics)
                    check_finite(metrics, done)
                if logging:
                    log.scalars(done, "train", metrics)
                    progress.update(done, float(metrics["loss"]))
                if done % every.evaluate == 0 or last:
                    evaluation.run(state, done, log, workdir)
                if saving:
                    save(workdir, done, state, feed, config, assembled)
                if stopped and not last:
                    say(f"saved step {done} in {workdir}; the same command goes on from there")
                    raise Stopped(stopped)
    weights = export_weights(workdir / "weights", state, assembled)
    return {
        "first": log.validation[0] if log.validation else math.nan,
        "last": log.validation[-1] if log.validation else math.nan,
        "steps": total,
        "seconds": time.monotonic() - started,
        "weights": str(weights),
    }


def check(config) -> None:
    """Raises UserError for values that no run can use."""
    if config.stage not in STAGES:
        raise UserError(f"config.stage is {config.stage!r}: expected one of {', '.join(STAGES)}")
    for group, names in POSITIVE.items():
        for name in names:
            if name in config[group] and config[group][name] < 1:
                raise UserError(f"config.{group}.{name} is {config[group][name]}: expected 1 or more")
    for name in ("learning_rate", "clip"):
        if not config.optim[name] > 0:
            raise UserError(f"config.optim.{name} is {config.optim[name]}: expected more than 0")
    if config.compute_dtype not in COMPUTE_DTYPES:
        raise UserError(f"config.compute_dtype is {config.compute_dtype!r}: expected one of {', '.join(COMPUTE_DTYPES)}")
    if config.loss.get("snr_form", "champ") not in SNR_FORMS:
        raise UserError(f"config.loss.snr_form is {config.loss.snr_form!r}: expected one of {', '.join(SNR_FORMS)}")
    if config.data.get("latent_cache", False) and config.data.augment != "none":
        raise UserError("config.data.latent_cache holds frames as they are: set config.data.augment=none, or do without the cache")
    if "m2p" in config.loss and config.loss.m2p not in M2P_WEIGHTS:
        raise UserError(f"config.loss.m2p is {config.loss.m2p!r}: expected one of {', '.join(M2P_WEIGHTS)}")
    if config.data.batch_size % config.optim.accumulation:
        raise UserError(
            f"config.data.batch_size {config.data.batch_size} must be a multiple of config.optim.accumulation {config.optim.accumulation}"
        )


def check_model(config, assembled: Assembled) -> None:
    """Raises UserError when a model cannot be trained as the configuration says: frames that it cannot encode, or M2P in
    a stage B whose settings say nothing of it."""
    step = assembled.config.vae.downsampling
    if config.stage != "A" and config.data.size % step:
        raise UserError(f"config.data.size is {config.data.size}: this model's VAE needs a multiple of {step}")
    if config.stage != "B" or assembled.config.m2p is None:
        return
    needed = {"data": ("motion_frames",), "loss": ("m2p", "m2p_weight", "music_start", "music_share")}
    absent = [f"{group}.{name}" for group, names in needed.items() for name in names if name not in config[group]]
    if absent:
        raise UserError(
            f"{config.init_from or 'config.model'} holds M2P, which stage B trains together with the image networks, but the "
            f"configuration lacks {', '.join(absent)}: take configs/stage_b.py or quickstart:B, or weights without M2P"
        )
    if not 0 <= config.loss.music_start < 1:
        raise UserError(
            f"config.loss.music_start is {config.loss.music_start}: expected 0 up to less than 1; music_share=0 keeps music out of it"
        )
    if "dwpose" not in assembled.config.kinds:
        raise UserError(f"M2P drives the dwpose encoder, but this model's kinds are {', '.join(assembled.config.kinds)}")


def start(config, assembled: Assembled, workdir: Path, resume: str, described, new_state, feed: Feed, mesh) -> tuple[TrainState, int]:
    """State and number of updates done: from the newest valid checkpoint, or the beginning."""
    newest = store.latest(workdir / "checkpoints")
    if newest is None:
        return new_state(), 0
    if resume == "never":
        raise UserError(f"{workdir} already holds checkpoints (step {newest}): give another workdir, or --resume auto")
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), described, state_layout(described, mesh)
    )
    state, meta = store.restore(workdir / "checkpoints", newest, abstract)
    if meta["config"] != config_hash(config):
        say(f"note: the configuration differs from the one that wrote step {newest}")
    if meta.get("frozen") != assembled.frozen_hash or geometry_of(meta["model"]) != geometry_of(assembled.described):
        raise UserError(
            f"step {newest} of {workdir} was trained with other frozen weights or another geometry than config.model and "
            "config.init_from now give: put those back, or give another workdir"
        )
    if newest < config.optim.steps:
        feed.set_state(newest, meta["data"])
    say(f"going on from step {newest} of {workdir}")
    return state, newest


def save(workdir: Path, step: int, state: TrainState, feed: Feed, config, assembled: Assembled) -> None:
    """A checkpoint that a resumed run continues from bit for bit: state, data position, geometry."""
    meta = {
        "config": config_hash(config), "data": feed.get_state(step), "model": assembled.described, "frozen": assembled.frozen_hash
    }  # fmt: skip
    store.save(workdir / "checkpoints", step, state, meta, keep_last=KEEP)


def say(text: str) -> None:
    """Prints a line, once for all processes."""
    if is_first():
        print(text, flush=True)


def check_finite(metrics: dict, step: int) -> None:
    """Raises UserError when loss or gradient is no number any more: going on, or saving, would only destroy the weights."""
    if not np.isfinite([metrics["loss"], metrics["gradient_norm"]]).all():
        raise UserError(
            f"the loss is {metrics['loss']} and its gradient's norm {metrics['gradient_norm']} at step {step}; "
            "lower config.optim.learning_rate or look at the data. "
            "The newest checkpoint is from before."
        )
