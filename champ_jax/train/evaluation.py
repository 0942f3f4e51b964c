"""What is measured and shown while training: loss on held-out clips, and frames of a fixed sample."""

from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from champ_jax.checkpoint.weights import TEACHER
from champ_jax.data.records import open_records
from champ_jax.errors import UserError
from champ_jax.evaluate.quality import frame_scores
from champ_jax.metrics.image import mean_finite
from champ_jax.models.animator import merge
from champ_jax.models.lora import with_lora
from champ_jax.parallel.mesh import fetch, shard_batch
from champ_jax.parallel.multihost import is_first
from champ_jax.train.assemble import Assembled
from champ_jax.train.feed import make_batches, say_absent
from champ_jax.train.log import MetricLog
from champ_jax.train.stages import STAGES
from champ_jax.train.state import TrainState, averaged_params

DROPOUTS = ("reference_dropout", "clip_dropout", "guidance_dropout", "skeleton_only")


def without_dropout(config):
    """The configuration with every condition present: what validation measures."""
    quiet = config.copy_and_resolve_references().unlock()
    for name in DROPOUTS if config.stage != "A" else ():
        quiet.loss[name] = 0.0
    return quiet.lock()


class Evaluation:
    """The same batches, noise and timesteps at every call, so that two losses differ by the parameters alone."""

    def __init__(self, config, assembled: Assembled, mesh: Mesh):
        self.config, self.assembled, self.mesh = config, assembled, mesh
        records = open_records(config.data.directory, config.data.validation_split, keep=True)
        say_absent(config, assembled, records, "the validation loss is without")
        loader = make_batches(config, assembled, records, config.data.frames, train=False, encoded=None)
        count = min(len(loader), config.log.validation_batches)
        if not count:
            raise UserError(
                f"{config.data.directory}, split {config.data.validation_split}: not one validation batch of "
                f"{config.data.batch_size} samples; lower data.batch_size or add clips"
            )
        self.batches = [next(loader) for _ in range(count)]
        for batch in self.batches:
            del batch["record"]  # not for the device
        stage, quiet = STAGES[config.stage], without_dropout(config)
        self._loss = jax.jit(
            lambda params, batch, key: stage.loss(
                merge(assembled.graphdef, with_lora(params)), batch, key, quiet.optim.steps, quiet, assembled.schedule, False
            )
        )
        self._pipeline = None

    def run(self, state: TrainState, step: int, log: MetricLog, workdir: Path) -> None:
        """Validation loss of the averaged parameters, logged; and, if asked for, sampled frames beside the truth, and their scores."""
        params = averaged_params(state)
        results = [self._loss(params, shard_batch(batch, self.mesh), jax.random.key(i)) for i, batch in enumerate(self.batches)]
        metrics = {"loss": np.mean([float(loss) for loss, _ in results])}
        for name in results[0][1]:
            metrics[name] = np.mean([float(values[name]) for _, values in results])
        columns = None
        if self.config.log.sample_steps and self.config.stage != "A":
            params = fetch({name: part for name, part in params.items() if name != TEACHER})
            if is_first():
                columns = self.sample(with_lora(params))
                scores = frame_scores(columns["truth"], columns["model"])
                metrics |= {name: mean_finite(values) for name, values in scores.items()}
        log.scalars(step, "validation", metrics)
        if columns is not None:
            rows = np.concatenate(list(columns.values()), 2)
            (workdir / "samples").mkdir(exist_ok=True)
            if STAGES[self.config.stage].batches == "C":
                from champ_jax.infer.video import write_video

                write_video(workdir / "samples" / f"{step:07d}.mp4", rows, self.assembled.described["pipeline"]["fps"])
            picture = np.concatenate(list(rows), 0)
            Image.fromarray(picture).save(workdir / "samples" / f"{step:07d}.png")
            log.image(step, ", ".join(columns), picture)

    def sample(self, params: dict) -> dict[str, np.ndarray]:
        """The first validation sample: photo, last map, truth and model, each uint8 [F,H,W,3]."""
        from champ_jax.infer.pipeline import Pipeline, PipelineSettings  # brings in audio and video libraries

        batch, config = self.batches[0], self.assembled.config
        if self._pipeline is None:
            settings = PipelineSettings(
                size=batch["reference"].shape[2:4],
                window=self.config.data.frames,
                overlap=0,
                guidance_strength=float(self.config.loss.condition_scale[1]),
                sampler=self.config.get("sampling", {}).get("sampler", PipelineSettings.sampler),
            )
            self._pipeline = Pipeline(config, params, settings)
        self._pipeline.params = params
        guidance = {kind: np.asarray(image[0]) for kind, image in batch["guidance"].items()}
        video = self._pipeline.animate(
            list(np.asarray(batch["reference"][0])),
            guidance,
            pose=list(zip(batch["reference_keypoints"][0], batch["reference_confidence"][0])),
            face=batch["reference_face"][0],
            steps=self.config.log.sample_steps,
            guidance_scale=1.0,
        )
        photo = np.broadcast_to(batch["reference"][0, 0], video.frames.shape)
        shown = guidance[max(guidance, key=config.kinds.index)]
        return {"photo": photo, "maps": shown, "truth": np.asarray(batch["video"][0]), "model": video.frames}
