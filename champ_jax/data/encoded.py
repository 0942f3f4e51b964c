"""What the frozen encoders make of every stored frame, computed once: they then cost nothing in training, nor does a photo.

`encoded-SPLIT-NAME.npy` holds the rows of all clips one after another: "moments" f16 [n,h,w,2c], mean and log-variance of the VAE's
latents, from which training draws as it would from pixels; "token" f16 [n,D], CLIP's embedding, where the model has a CLIP.
`encoded-SPLIT.json`, written last, says which weights, records and geometry they belong to, and where each clip begins.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from champ_jax.data import transforms
from champ_jax.data.records import Records
from champ_jax.errors import UserError
from champ_jax.files import write_text

Rows = dict[str, np.ndarray]
Encode = Callable[[np.ndarray], Rows]


class Encoded:
    """`encoded[clip_id]`: {name: rows of a clip's stored frames}, read from disk as they are needed.

    NaN where a frame could not be read when they were encoded.
    """

    def __init__(self, rows: Rows, clips: dict[str, tuple[int, int]]):
        self._rows, self._clips = rows, clips

    def __getitem__(self, clip_id: str) -> Rows:
        start, count = self._clips[clip_id]
        return {name: rows[start : start + count] for name, rows in self._rows.items()}


def _data_path(directory: Path, split: str, name: str) -> Path:
    return directory / f"encoded-{split}-{name}.npy"


def _about_path(directory: Path, split: str) -> Path:
    return directory / f"encoded-{split}.json"


def build_encoded(
    records: Records,
    directory: str | os.PathLike,
    encode: Encode,
    weights: str,
    size: tuple[int, int],
    chunk: int = 32,
) -> Encoded:
    """Encodes every stored frame of `records` at `size` (H, W), without augmentation, into files in `directory`.

    encode: uint8 [N,H,W,3] to {name: [N,...]}, called with `chunk` frames at a time; the last call of all is
    filled up, so a compiled function sees one shape. weights: names the encoders' weights; see open_encoded.
    Frames that cannot be read become NaN, their records are skipped: UserError when these are too many.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    about_path = _about_path(directory, records.split)
    about_path.unlink(missing_ok=True)
    total = sum(info.stored for info in records.infos)
    if not total:
        raise UserError(f"{records.where()}: zero frames with pixels, so nothing to encode.")
    files: Rows = {}
    done = 0
    for images, lost in _chunks(records, size, chunk):
        count = min(chunk, total - done)
        for name, rows in encode(images).items():
            rows = np.array(rows, np.float16)
            rows[lost] = np.nan
            if name not in files:
                path = _data_path(directory, records.split, name).with_suffix(".incomplete")
                files[name] = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(total, *rows.shape[1:]))
            files[name][done : done + count] = rows[:count]
        done += count
    shapes = {}
    for name in list(files):
        rows = files.pop(name)
        rows.flush()
        shapes[name] = list(rows.shape)
        path = _data_path(directory, records.split, name)
        os.replace(path.with_suffix(".incomplete"), path)
    about = {"weights": weights, "records": records.fingerprint, "size": list(size), "shapes": shapes, "clips": _layout(records)}
    write_text(about_path, json.dumps(about))
    return open_encoded(records, directory, weights, size)


def _chunks(records: Records, size: tuple[int, int], chunk: int) -> Iterator[tuple[np.ndarray, list[bool]]]:
    """All stored frames in order as (uint8 [chunk,H,W,3], [chunk] whether a frame is lost); the last chunk repeats its end."""
    photos = (photo for number in range(len(records)) for photo in _photos(records, number, size))
    missing = np.zeros((*size, 3), np.uint8)
    while batch := list(itertools.islice(photos, chunk)):
        batch += [batch[-1]] * (chunk - len(batch))
        yield np.stack([missing if photo is None else photo for photo in batch]), [photo is None for photo in batch]


def _photos(records: Records, number: int, size: tuple[int, int]) -> Iterator[np.ndarray | None]:
    """The stored frames of a record, uint8 [H,W,3]; None for those that cannot be read."""
    for clip in records.readable([number]):
        view = transforms.fit(clip.size, size, clip.person_box)
        for frame in range(clip.stored):
            try:
                photo = view.photo(clip.image("frames", frame))
            except UserError as error:
                records.skip(number, error)
                photo = None
            yield photo
        return
    yield from itertools.repeat(None, records.infos[number].stored)


def _layout(records: Records) -> dict[str, list[int]]:
    """Clip id to [first row, rows]."""
    layout, start = {}, 0
    for info in records.infos:
        layout[info.clip_id] = [start, info.stored]
        start += info.stored
    return layout


def open_encoded(records: Records, directory: str | os.PathLike, weights: str, size: tuple[int, int]) -> Encoded:
    """The encoder cache of `records` in `directory`.

    Raises UserError if it is absent or incomplete, or belongs to other weights, another size or other records.
    """
    directory = Path(directory)
    path = _about_path(directory, records.split)
    again = "Encode again."
    try:
        about = json.loads(path.read_text())
        shapes = about["shapes"]
        rows = {name: np.load(_data_path(directory, records.split, name), mmap_mode="r") for name in shapes}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no readable encoder cache ({error}). {again}") from error
    if about.get("weights") != weights:
        raise UserError(f"{path}: made by encoders {about.get('weights')}, but the model's are {weights}. {again}")
    if about.get("size") != list(size):
        raise UserError(f"{path}: made of frames of size {about.get('size')}, expected {list(size)}. {again}")
    same = about.get("records") == records.fingerprint and about.get("clips") == _layout(records)
    if not same or {name: list(found.shape) for name, found in rows.items()} != shapes:
        raise UserError(f"{path}: made of other records than {records.where()}. {again}")
    return Encoded(rows, {name: (start, count) for name, (start, count) in about["clips"].items()})
