"""Latents of every stored frame, computed once: the VAE then costs nothing in training.

`latents-SPLIT.npy` holds the rows of all clips one after another, `latents-SPLIT.json`, written last, says which VAE
and which geometry they belong to and where each clip begins.
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

Encode = Callable[[np.ndarray], np.ndarray]


class Latents:
    """`latents[clip_id]`: float16 [n,h,w,c] of a clip's stored frames, read from disk as they are needed.

    NaN where a frame could not be read when they were encoded.
    """

    def __init__(self, rows: np.ndarray, clips: dict[str, tuple[int, int]]):
        self._rows, self._clips = rows, clips

    def __getitem__(self, clip_id: str) -> np.ndarray:
        start, count = self._clips[clip_id]
        return self._rows[start : start + count]


def _paths(directory: Path, split: str) -> tuple[Path, Path]:
    return directory / f"latents-{split}.npy", directory / f"latents-{split}.json"


def build_latents(
    records: Records,
    directory: str | os.PathLike,
    encode: Encode,
    vae_hash: str,
    size: tuple[int, int],
    chunk: int = 32,
) -> Latents:
    """Encodes every stored frame of `records` at `size` (H, W), without augmentation, into files in `directory`.

    encode: uint8 [N,H,W,3] to latents [N,h,w,c], called with `chunk` frames at a time; the last call of all is
    filled up, so a compiled function sees one shape. vae_hash: names the weights; see open_latents.
    Frames that cannot be read become NaN, their records are skipped: UserError when these are too many.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    data_path, meta_path = _paths(directory, records.split)
    meta_path.unlink(missing_ok=True)
    total = sum(info.stored for info in records.infos)
    if not total:
        raise UserError(f"{records.where()}: zero frames with pixels, so nothing to encode.")
    temporary = data_path.with_suffix(".incomplete")
    rows, done = None, 0
    for images, lost in _chunks(records, size, chunk):
        count = min(chunk, total - done)
        latents = np.array(encode(images), np.float16)
        latents[lost] = np.nan
        if rows is None:
            shape = (total, *latents.shape[1:])
            rows = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        rows[done : done + count] = latents[:count]
        done += count
    rows.flush()
    shape = rows.shape
    del rows
    os.replace(temporary, data_path)
    meta = {"vae": vae_hash, "size": list(size), "shape": list(shape), "clips": _layout(records)}
    meta_path.with_suffix(".incomplete").write_text(json.dumps(meta))
    os.replace(meta_path.with_suffix(".incomplete"), meta_path)
    return open_latents(records, directory, vae_hash, size)


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


def open_latents(records: Records, directory: str | os.PathLike, vae_hash: str, size: tuple[int, int]) -> Latents:
    """The latent cache of `records` in `directory`.

    Raises UserError if it is absent or incomplete, or belongs to another VAE, another size or other records.
    """
    data_path, meta_path = _paths(Path(directory), records.split)
    again = "Build the latent cache again."
    try:
        meta = json.loads(meta_path.read_text())
        rows = np.load(data_path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{meta_path}: no readable latent cache ({error}). {again}") from error
    if meta.get("vae") != vae_hash:
        raise UserError(f"{meta_path}: latents of the VAE {meta.get('vae')}, but the model's is {vae_hash}. {again}")
    if meta.get("size") != list(size):
        raise UserError(f"{meta_path}: latents of frames of size {meta.get('size')}, expected {list(size)}. {again}")
    if meta.get("clips") != _layout(records) or list(rows.shape) != meta.get("shape"):
        raise UserError(f"{meta_path}: latents of other records than {records.where()}. {again}")
    return Latents(rows, {name: (start, count) for name, (start, count) in meta["clips"].items()})
