"""Batches for the three training stages: shuffled, repeated and dealt to hosts by grain, and resumable to the batch."""

from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from champ_jax.data.encoded import Encoded
from champ_jax.data.read_ahead import ReadAhead
from champ_jax.data.records import ClipInfo, Records
from champ_jax.data.samples import Sample, SampleSpec, make_sample
from champ_jax.data.transforms import AUGMENTATIONS, Augment
from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.errors import UserError

Batch = dict[str, Any]

TIMEOUT = 300.0  # seconds for a batch, reading which takes a fraction of one


class Loader:
    """Iterator over batches that knows where it is.

    `get_state()` is JSON-able; `set_state(state)` continues with exactly the batch that would have come next.
    `len(loader)` is the number of batches in one pass over the data. where: names the data in errors. threads: these
    read ahead; with 0 a batch is read when it is asked for.
    """

    def __init__(self, dataset: grain.MapDataset, batches: int, settings: dict[str, Any], where: str, threads: int):
        self._dataset, self._batches, self._settings, self._where = dataset, batches, settings, where
        self._ahead = ReadAhead(dataset, threads) if threads else None
        self._position = 0  # batches taken; what was read ahead does not count

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch. Raises UserError when too many records are damaged, or none arrives within `TIMEOUT` seconds."""
        if self._position == len(self._dataset):
            raise StopIteration
        try:
            batch = self._ahead.get(self._position, TIMEOUT) if self._ahead else self._dataset[self._position]
        except TimeoutError as error:
            raise UserError(f"{self._where}: no batch within {TIMEOUT:g} seconds: the storage does not answer. "
                            "Look at it, then resume the run.") from error  # fmt: skip
        self._position += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """Where the iteration stands: the number of batches taken, and the settings that make this mean something."""
        return {"position": {"next_index": self._position}, "settings": self._settings}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to where `get_state` was called. Raises UserError if the state was taken from a loader with other data or settings."""
        other = state.get("settings", {})
        changed = sorted(name for name, value in self._settings.items() if other.get(name) != value)
        if changed:
            was = ", ".join(f"{name} {other.get(name)} -> {self._settings[name]}" for name in changed)
            raise UserError(f"This data position belongs to a loader with other settings ({was}). "
                            "Resume with the same data settings, or start a new run.")  # fmt: skip
        self._position = state["position"]["next_index"]


class _ToSample:
    """grain's map: the number of an item, a row of `items`, to its sample.

    Where this cannot be read, to the sample of the next item of another record. Whether it can is tried each time, and
    never taken from what is known of the record: which sample comes must not depend on what this process has met before.
    """

    def __init__(self, records: Records, items: np.ndarray, spec: SampleSpec, encoded: Encoded | None):
        self.records, self.items, self.spec, self.encoded = records, items, spec, encoded

    def __call__(self, item: int, rng: np.random.Generator | None = None) -> Sample:
        """The sample, with the number of its record. Raises UserError when too many records cannot be read."""
        failed: set[int] = set()
        for row in range(item, item + len(self.items)):
            number, slot, slots = (int(value) for value in self.items[row % len(self.items)])
            if number in failed:
                continue
            try:
                return self._sample(number, slot, slots, rng) | {"record": np.int32(number)}
            except Exception as error:  # besides UserError whatever NumPy and OpenCV find wrong with it
                self.records.skip(number, error)
                failed.add(number)
        raise UserError(f"{self.records.where()}: not one of the {len(failed)} records that samples come from can be read. "
                        "Copy the files again, or write the records again.")  # fmt: skip

    def _sample(self, number: int, slot: int, slots: int, rng: np.random.Generator | None) -> Sample:
        return make_sample(self.records[number], slot, slots, self.spec, rng, self.encoded)


def make_loader(
    records: Records,
    *,
    stage: str,
    batch_size: int,
    frames: int,
    size: int | tuple[int, int],
    kinds: tuple[str, ...] = GUIDANCE_KINDS,
    stride: int = 1,
    motion_frames: int = 0,
    widths: tuple[int, int] = (0, 0),
    references: int = 1,
    seed: int = 0,
    train: bool = True,
    augment: Augment | str = "mild",
    skip_short: bool = False,
    encoded: Encoded | None = None,
    process: tuple[int, int] = (0, 1),
    threads: int = 2,
) -> Loader:
    """Batches of a split, endless and random to train on, or one ordered pass without variation (`train=False`).

    Args:
      stage: "A" windows of motion and music; "B" frames with references of the same person; "C" clips.
      batch_size: over all processes. frames: F. In "B" the F targets of a sample share one reference, so that the
        reference network runs once for all of them. size: pixels of the square, or (H, W).
      stride: stage C takes every stride-th stored frame. motion_frames: stage B brings a music window of this length.
      widths: of music and face vectors where not one clip has any; they are zeros, with a mask that says so.
      augment: an Augment or the name of one in `AUGMENTATIONS`; never applied with `train=False`.
      references: R, photos of the person in a sample of stage B or C, chosen from its clip to differ in pose.
      skip_short: leave out clips that are too short for `frames`, instead of refusing them.
      encoded: an encoder cache for `size`; its rows replace photos.
      process: (index, count) of this host. The union of the hosts' batches does not depend on their number.
      threads: these read batches ahead; 0 reads a batch when it is asked for.

    Returns: a Loader of batches of NumPy arrays. Every batch holds
      keypoints f32 [B,F,J,2] pixels of `size`, confidence f32 [B,F,J], reference_keypoints f32 [B,J,2],
      reference_confidence f32 [B,J], face f32 [B,F,E], face_valid f32 [B,F], reference_face f32 [B,E],
      music f32 [B,F,Dm], music_mask f32 [B], seconds f32 [B,F], identity i32 [B],
      record i32 [B], the numbers in `records` of the clips that the samples come from;
      B and C also video u8 [B,F,H,W,3], guidance {kind: u8 [B,F,H,W,3]}, mask u8 [B,F,H,W], face_box f32 [B,F,4], and of R
      photos reference and its skeleton reference_pose u8 [B,R,H,W,3], reference_weight f32 [B,R], 0 for those that do not
      count, reference_keypoints f32 [B,R,J,2], reference_confidence f32 [B,R,J]; with an encoder cache moments
      f16 [B,F,h,w,2c], reference_moments f16 [B,R,h,w,2c], reference_token f16 [B,R,D] in place of video and reference;
      with motion_frames "motion", a stage A batch of that length, and in it index i32 [B,F], where the targets are.

    Raises UserError if the data cannot give such batches: clips too short, a map not stored, mixed features. Damage shows
    only when a record is read: the sample is then replaced by one of another record, and `records.skipped` counts it.
    """
    if batch_size % process[1]:
        raise UserError(f"batch_size {batch_size} cannot be shared among {process[1]} processes; use a multiple.")
    if isinstance(augment, str):
        if augment not in AUGMENTATIONS:
            raise UserError(f"augment: expected one of {', '.join(AUGMENTATIONS)}, got {augment!r}.")
        augment = AUGMENTATIONS[augment]
    if encoded is not None and augment and train:
        raise UserError("An encoder cache holds frames as they are: switch augmentation off, or do not use the cache.")
    spec = SampleSpec(
        stage=stage,
        frames=frames,
        stride=stride,
        size=(size, size) if isinstance(size, int) else tuple(size),
        kinds=tuple(kinds),
        motion_frames=motion_frames,
        music_dim=_common(records, "music_dim", "music_spec") or widths[0],
        face_dim=_common(records, "face_dim", "face_model") or widths[1],
        augment=augment,
        references=references,
    )
    items = _items(records, spec, skip_short)
    if not train:
        # Every clip once before any clip twice, so that a few batches show many people.
        items = items[np.argsort(items[:, 1], kind="stable")]
    if not train and len(items) < batch_size:
        raise UserError(f"{records.where()}: {len(items)} samples do not fill one batch of {batch_size}. "
                        "Use a smaller batch.")  # fmt: skip
    dataset = _sequence(_ToSample(records, items, spec, encoded), seed, train, process, batch_size)
    settings = {"split": records.split, "clips": len(records), "stage": stage, "batch_size": batch_size, "frames": frames,
                "stride": stride, "seed": seed, "train": train, "references": references}  # fmt: skip
    return Loader(dataset, len(items) // batch_size, settings, records.where(), threads)


def _sequence(convert: _ToSample, seed: int, train: bool, process: tuple[int, int], batch_size: int) -> grain.MapDataset:
    """This process's batches by number."""
    dataset = grain.MapDataset.range(len(convert.items))
    if train:
        # The draw of a sample depends on its place in the endless sequence, which is dealt to processes afterwards:
        # one host or many see the same global batches.
        dataset = dataset.shuffle(seed=seed).repeat().random_map(convert, seed=seed)
    else:
        dataset = dataset.map(convert)
    # Each host has a stretch of every batch, so that put together they are the one host's batch row for row.
    return dataset.batch(batch_size // process[1], drop_remainder=True)[process[0] :: process[1]]


def _common(records: Records, width: str, origin: str) -> int:
    """The one width that music or face vectors have in all clips that have them; 0 if none has. UserError if mixed."""
    found: dict[tuple[int, str], ClipInfo] = {}
    for info in records.infos:
        if getattr(info, width):
            found.setdefault((getattr(info, width), getattr(info, origin)), info)
    if len(found) > 1:
        kinds = ", ".join(f"{name or 'unnamed'} ({size} wide, {info.clip_id})" for (size, name), info in found.items())
        raise UserError(f"{records.where()}: {origin} differs between clips: {kinds}. "
                        "Vectors of different origin cannot be mixed; extract them again.")  # fmt: skip
    return next(iter(found))[0] if found else 0


def _items(records: Records, spec: SampleSpec, skip_short: bool) -> np.ndarray:
    """int [n,3] of (record, slot, slots): longer clips have more slots, so that all frames are seen equally often."""
    where = records.where()
    items, short, mapless = [], [], []
    for number, info in enumerate(records.infos):
        length = info.n_frames if spec.stage == "A" else info.stored
        if spec.stage != "A" and not length:
            continue  # motion alone
        if length < spec.span or info.n_frames < spec.motion_frames:
            short.append(f"{info.clip_id} ({length})")
            continue
        if spec.stage != "A" and set(spec.kinds) - set(info.maps) - {"dwpose"}:
            mapless.append(f"{info.clip_id} (has {', '.join(info.maps) or 'none'})")
        slots = (length - 1) // spec.frames if spec.stage == "B" else length // spec.span
        items += [(number, slot, slots) for slot in range(slots)]
    if mapless:
        raise UserError(f"{where}: guidance {', '.join(spec.kinds)} is asked for, but not stored in "
                        f"{_some(mapless)}. Train with fewer kinds, or prepare the missing maps.")  # fmt: skip
    if short and not skip_short:
        raise UserError(f"{where}: {len(short)} of {len(records)} clips are shorter than the {spec.span} frames that a "
                        f"sample needs: {_some(short)}. Lower frames or stride, or skip short clips.")  # fmt: skip
    if short and items:
        print(f"note: {where}: {len(short)} of {len(records)} clips are too short for {spec.span} frames and left out", flush=True)
    if not items:
        kind = "motion frames" if spec.stage == "A" else "frames with pixels"
        raise UserError(f"{where}: zero samples: no clip has {spec.span} {kind}.")
    return np.array(items, np.int64)


def _some(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
