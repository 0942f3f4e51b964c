"""The training loop of every stage: next batch, step, log, evaluate, save."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from champ_jax.checkpoint import store
from champ_jax.config import config_hash, write_record
from champ_jax.data.records import open_records
from champ_jax.errors import UserError, did_you_mean
from champ_jax.evaluate.efficiency import describe_program, device_memory
from champ_jax.parallel.mesh import make_mesh, shard_batch
from champ_jax.parallel.multihost import barrier, check_same, is_first, of_first, say
from champ_jax.train.assemble import Assembled, assemble, export_weights
from champ_jax.train.check import check, check_model
from champ_jax.train.compiled import compile_step
from champ_jax.train.evaluation import Evaluation
from champ_jax.train.feed import Feed, standardise
from champ_jax.train.interrupt import Stopped, StopRequest
from champ_jax.train.lock import held
from champ_jax.train.log import MetricLog, ProgressLine, SilentLog
from champ_jax.train.resume import RESUMES, describe_run, start
from champ_jax.train.skips import Skips
from champ_jax.train.state import TrainState
from champ_jax.train.timing import Profile, Timing, Watchdog

KEEP = 2  # newest checkpoints


def train(config, workdir: str | Path, resume: str = "auto", profile: tuple[int, int] | None = None) -> dict:
    """Runs the stage that `config` describes to its last step, and leaves weights that `load_pipeline` reads.

    config: a locked ConfigDict as in configs/stage_b.py. workdir: gets checkpoints/, weights/, metrics.jsonl,
    TensorBoard files and samples/. resume: "auto" goes on from the newest valid checkpoint, "changed" also when the
    configuration has changed, "never" refuses a workdir that has one. profile: (first step, steps) of which a trace is
    written to profile/. Returns {"first", "last": validation losses, "steps", "seconds", "weights": path}.
    Raises UserError before any compilation for what the user can mend; Stopped (exit code 75 or 143) after Ctrl-C or a
    termination signal, once the state is saved.
    """
    workdir, started, timing = Path(workdir), time.monotonic(), Timing()
    if resume not in RESUMES:
        raise UserError(f"resume is {resume!r}{did_you_mean(resume, RESUMES)}: expected one of {', '.join(RESUMES)}")
    check(config)
    with held(workdir), Watchdog(timing):
        with timing("start"):
            run, state, first = prepare(config, workdir, resume, timing)
        with MetricLog(workdir, first, config.log.wandb) if is_first() else SilentLog() as log, run.saver:
            state = take_steps(run, state, first, log, Profile(workdir / "profile", *profile or ()))
        with timing("checkpoint"):
            weights = export_weights(workdir / "weights", state, run.assembled)
    return {
        "first": log.validation[0] if log.validation else math.nan,
        "last": log.validation[-1] if log.validation else math.nan,
        "steps": config.optim.steps,
        "seconds": time.monotonic() - started,
        "weights": str(weights),
    }


class Run(NamedTuple):
    """What a run is made of and does not change."""

    config: Any
    workdir: Path
    assembled: Assembled
    mesh: Mesh
    feed: Feed
    step_fn: Callable
    evaluation: Evaluation
    saver: store.Saver
    timing: Timing

    def validate(self, step: int, state: TrainState, log: MetricLog) -> None:
        """Validation losses and samples."""
        with self.timing("evaluation"):
            self.evaluation.run(state, step, log, self.workdir)
            barrier("evaluated")  # process 0 alone samples: the others wait here, not in a step

    def record(self, step: int, metrics: dict, log: MetricLog) -> float:
        """Writes down the figures of a step, where the time went and what memory is used; the loss."""
        with self.timing("training"), explained_memory(self.config):
            metrics = jax.device_get(metrics)
        log.scalars(step, "train", {**metrics, "skipped_records": len(self.feed.skipped)})
        log.scalars(step, "seconds", self.timing.take())
        if used := device_memory():
            log.scalars(step, "memory", used)
        return float(metrics["loss"])

    def save(self, step: int, state: TrainState) -> None:
        """Begins a checkpoint that a resumed run continues from bit for bit."""
        with self.timing("checkpoint"):
            self.saver.save(step, state, describe_run(self.config, self.assembled, self.feed, step))


def prepare(config, workdir: Path, resume: str, timing: Timing) -> tuple[Run, TrainState, int]:
    """The run, its state, and the number of steps done; everything that can be refused is refused here."""
    records = open_records(config.data.directory, config.data.split, keep=config.data.cache)
    assembled = assemble(config, records)
    check_model(config, assembled)
    assembled = standardise(config, assembled, records)
    mesh = make_mesh(config.mesh)
    check_same(f"{config_hash(config)} {assembled.frozen_hash}", "the configuration, or a file of weights,")
    step_fn, described, new_state = compile_step(config, assembled, mesh)
    saver = store.Saver(workdir / "checkpoints", KEEP)
    saver.check_room(described)
    feed = Feed(config, assembled, records, workdir)
    evaluation = Evaluation(config, assembled, mesh)
    state, first = start(config, assembled, workdir, resume, described, new_state, feed, mesh)
    if is_first():
        write_record(config, workdir / "config.json")
    return Run(config, workdir, assembled, mesh, feed, step_fn, evaluation, saver, timing), state, first


def take_steps(run: Run, state: TrainState, first: int, log: MetricLog, profile: Profile) -> TrainState:
    """The loop; returns the last state. Raises Stopped once the state is saved after a signal."""
    config, timing, total = run.config, run.timing, run.config.optim.steps
    skips, shapes = Skips(run.workdir, run.feed), None
    if not of_first(len(log.validation)):
        run.validate(first, state, log)
    with StopRequest() as stop, ProgressLine(f"stage {config.stage}", first, total, shown=is_first()) as progress, profile:
        for done in range(first + 1, total + 1):
            with timing("input"):
                batch = shard_batch(run.feed.next(done - 1), run.mesh)
            known, shapes = shapes, jax.tree.map(lambda array: array.shape, batch)
            with timing("training" if shapes == known else "compile"), explained_memory(config):
                profile.at(done)
                state, metrics = run.step_fn(state, batch, config.seed)
                skips.look(done, metrics)
            if shapes != known:
                log.scalars(done, "program", describe_program(run.step_fn, state, batch, config.seed))
            last, stopped = done == total, stop.asked()
            if done % config.log.scalars == 0 or last or stopped:
                progress.update(done, run.record(done, metrics, log))
            if done % config.log.evaluate == 0 or last:
                run.validate(done, state, log)
            if done % config.log.save == 0 or last or stopped:
                run.save(done, state)
            if last or stopped:
                skips.look_at_last()
                with timing("checkpoint"):
                    run.saver.wait()
            if stopped and not last:
                say(f"saved step {done} in {run.workdir}; the same command goes on from there")
                raise Stopped(stopped)
    return state


@contextmanager
def explained_memory(config) -> Iterator[None]:
    """Turns the devices' out-of-memory error into what can be done about it."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the devices are out of memory ({str(error).splitlines()[0][:200]}). A smaller --config.data.batch_size (now "
            f"{config.data.batch_size}), a larger --config.optim.accumulation (now {config.optim.accumulation}), "
            "--config.model.unet.remat=true or a larger --config.mesh.fsdp take less; champ-jax plan says what fits before a run"
        ) from error
