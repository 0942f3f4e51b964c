"""Batches for the loop: one loader after another where clips grow, and a position that a checkpoint can hold."""

import dataclasses
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from champ_jax.data.encoded import Encoded, build_encoded, open_encoded
from champ_jax.data.loader import Batch, Loader, make_loader
from champ_jax.data.records import Records
from champ_jax.errors import UserError
from champ_jax.models.animator import AnimatorConfig, merge
from champ_jax.models.lora import with_lora
from champ_jax.models.m2p_statistics import measure_statistics, with_statistics
from champ_jax.parallel.multihost import barrier, is_first, say
from champ_jax.train.assemble import Assembled
from champ_jax.train.conditions import image_token
from champ_jax.train.stages import STAGES

MEASURED = 32  # batches
REMEMBERED = 64  # steps


def clip_lengths(config) -> list[tuple[int, int]]:
    """(first step, frames a clip) phases: `frames` all along, or doubling from `first_frames` in equal shares."""
    lengths = [config.data.frames]
    while STAGES[config.stage].batches == "C" and lengths[0] > config.data.first_frames:
        lengths.insert(0, max(lengths[0] // 2, config.data.first_frames))
    share = config.optim.steps / len(lengths)
    return [(round(i * share), frames) for i, frames in enumerate(lengths)]


class Feed:
    """Training batches by step, resumable, for this process's share of the global batch."""

    def __init__(self, config, assembled: Assembled, records: Records, workdir: Path):
        self.config, self.assembled, self.records = config, assembled, records
        self.phases = clip_lengths(config)
        self.encoded = _encoder_cache(config, assembled, records, workdir)
        say_absent(config, assembled, records, "these encoders learn nothing")
        self._first_step, self._loader = None, None
        self._numbers: OrderedDict[int, np.ndarray] = OrderedDict()  # of the records in a step's batch

    @property
    def skipped(self) -> dict[str, str]:
        """{clip id: reason} of the training records that this process could not read so far."""
        return dict(self.records.skipped)

    def _phase(self, step: int) -> tuple[int, int]:
        return max(phase for phase in self.phases if phase[0] <= step)

    def _open(self, step: int) -> Loader:
        first_step, frames = self._phase(step)
        if first_step != self._first_step:
            self._first_step = first_step
            self._loader = make_batches(self.config, self.assembled, self.records, frames, train=True, encoded=self.encoded)
        return self._loader

    def next(self, step: int) -> Batch:
        """The batch of a step; steps must be asked for in order. Where it comes from stays here: ask `clips`."""
        batch = next(self._open(step))
        self._numbers[step] = batch.pop("record")
        if len(self._numbers) > REMEMBERED:
            self._numbers.popitem(last=False)
        return batch

    def clips(self, step: int) -> list[str]:
        """The clip ids, row by row, of this process's share of a step's batch; none for a step that is long past."""
        return [self.records.infos[number].clip_id for number in self._numbers.get(step, ())]

    def get_state(self, step: int) -> dict[str, Any]:
        """Position after `step` batches, JSON-able."""
        return {"first_step": self._first_step, "loader": self._loader.get_state()}

    def set_state(self, step: int, state: dict[str, Any]) -> None:
        """Goes to the position that `get_state(step)` returned; the batch of `step` comes next."""
        loader = self._open(step)
        if state["first_step"] == self._first_step:
            loader.set_state(state["loader"])
        elif step != self._first_step:  # where a phase begins with this very step, its loader starts afresh
            raise UserError(
                f"step {step} was saved while clips grew by another plan (phases {self.phases} now): optim.steps, data.frames and "
                "data.first_frames must be those of the run that is resumed"
            )


def standardise(config, assembled: Assembled, records: Records) -> Assembled:
    """Puts means and deviations of the data's music and poses into an M2P that starts from random values.

    They are measured on `MEASURED` training batches, the same in every process and in every resumed run.
    """
    if "m2p" not in assembled.fresh:
        return assembled
    loader = make_batches(config, assembled, records, config.data.frames, train=True, encoded=None, process=(0, 1))
    batches = (next(loader) for _ in range(MEASURED))
    statistics = measure_statistics(batch if config.stage == "A" else batch["motion"] for batch in batches)
    m2p = jax.tree.map(np.asarray, with_statistics(assembled.params["m2p"], statistics))
    return dataclasses.replace(assembled, params={**assembled.params, "m2p": m2p})


def kinds_of(config, assembled: Assembled, records: Records) -> tuple[str, ...]:
    """The kinds of guidance that a run trains with: those that `config.model.kinds` asks for, and else the model's as far as all clips
    with frames have them stored. The skeleton is drawn and always there."""
    kinds = assembled.config.kinds
    if "kinds" in (config.get("model") or {}):
        return kinds
    stored = [info.maps for info in records.infos if info.stored]
    return tuple(kind for kind in kinds if kind == "dwpose" or all(kind in maps for maps in stored))


def say_absent(config, assembled: Assembled, records: Records, consequence: str) -> None:
    """A line about the model's kinds of guidance that `kinds_of` leaves out, if there are any."""
    if config.stage != "A" and (absent := set(assembled.config.kinds) - set(kinds_of(config, assembled, records))):
        say(f"note: {records.where()}: not all clips have {', '.join(sorted(absent))}: {consequence}")


def make_batches(config, assembled: Assembled, records: Records, frames: int, train: bool, encoded: Encoded | None, process=None) -> Loader:
    """A loader for the configuration's stage over `records`; process: (index, count), this one's by default."""
    batches = STAGES[config.stage].batches
    music = batches == "B" and assembled.config.m2p is not None
    return make_loader(
        records,
        stage=batches,
        batch_size=config.data.batch_size,
        frames=frames,
        size=config.data.size,
        kinds=kinds_of(config, assembled, records),
        stride=config.data.stride if batches == "C" else 1,
        motion_frames=config.data.motion_frames if music else 0,
        widths=(assembled.config.m2p.music_dim if music else 0, face_dim(assembled.config, music)),
        references=config.data.get("references", 1) if config.stage != "A" else 1,
        seed=config.seed,
        train=train,
        augment=config.data.augment,
        skip_short=True,
        encoded=encoded,
        process=process or (jax.process_index(), jax.process_count()),
    )


def face_dim(config: AnimatorConfig, music: bool) -> int:
    """Width of the face vectors that a stage but A reads, of M2P or for the tokens of the face; 0 for none."""
    return config.face_id.embedding if config.face_id else config.m2p.face_dim if music else 0


def _encoder_cache(config, assembled: Assembled, records: Records, workdir: Path) -> Encoded | None:
    """What the frozen encoders make of all stored frames, encoded now unless the run's folder already has it."""
    if config.stage == "A" or not config.data.latent_cache:
        return None
    directory, size = workdir / "encoded", (config.data.size, config.data.size)
    if is_first():
        _fill_encoder_cache(assembled, records, directory, size)
    barrier("encoded")
    return open_encoded(records, directory, assembled.encoders_hash, size)


def _fill_encoder_cache(assembled: Assembled, records: Records, directory: Path, size: tuple[int, int]) -> None:
    """Encodes all stored frames, unless the folder has them already."""
    try:
        open_encoded(records, directory, assembled.encoders_hash, size)
        return
    except UserError:
        print(f"encoding {sum(info.stored for info in records.infos)} frames into {directory}", flush=True)

    @jax.jit
    def encode(params, frames):
        model = merge(assembled.graphdef, with_lora(params))
        rows = {"moments": jnp.concatenate(model.vae.encode(frames.astype(jnp.float32) / 127.5 - 1.0), -1)}
        return rows if model.clip is None else rows | {"token": image_token(model, frames)}

    params = assembled.params
    build_encoded(records, directory, lambda frames: jax.device_get(encode(params, frames)), assembled.encoders_hash, size)
