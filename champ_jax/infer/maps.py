"""Guidance maps that are read or drawn frame by frame, and folders of them, checked as CHAMP lays them out."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from champ_jax.data.media import IMAGE_SUFFIXES, check_image, in_order
from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.errors import UserError
from champ_jax.infer.photo import fit, load_image
from champ_jax.pose.draw import draw_clip
from champ_jax.pose.skeleton import J


class ImageMaps:
    """Images of a folder, fitted to one size and read when they are asked for: like an array u8 [F,H,W,3]."""

    dtype = np.dtype(np.uint8)

    def __init__(self, files: Mapping[str, Path], size: tuple[int, int], resample: Image.Resampling, mask: ImageMaps | None = None):
        """files: by name, in order; all are opened once, so that most broken ones are found before anything is computed (a JPEG that is
        cut off is not).
        mask: blackens where it is 0. Raises UserError for what is no image."""
        self.shape = (len(files), *size, 3)
        self._files, self._resample, self._mask = list(files.values()), resample, mask
        for path in self._files:
            check_image(path)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        """u8 [m,H,W,3] of frames `index` [m]."""
        index = np.arange(len(self))[index]
        images = np.stack([fit(load_image(self._files[i]), self.shape[1:3], self._resample)[0] for i in index])
        return images if self._mask is None else images * (self._mask[index].max(-1, keepdims=True) > 0)


class DrawnMaps:
    """Skeletons of a clip, drawn when they are asked for: like an array u8 [F,H,W,3]."""

    dtype = np.dtype(np.uint8)

    def __init__(self, keypoints: np.ndarray, confidence: np.ndarray, size: tuple[int, int]):
        """keypoints: [F,J,2] pixels of frames of `size` (height, width). confidence: [F,J] 0..1."""
        self.shape = (len(keypoints), *size, 3)
        self._keypoints, self._confidence = keypoints, confidence

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        """u8 [m,H,W,3] of frames `index` [m]."""
        return draw_clip(self._keypoints[index], self._confidence[index], self.shape[1:3])


def open_guidance(folder: str | os.PathLike, kinds: tuple[str, ...], size: tuple[int, int]) -> dict[str, Any]:
    """The maps of `folder` that a checkpoint with `kinds` can use, fitted to `size` (height, width).

    folder holds depth/, normal/, semantic_map/, dwpose/ with one image a frame, in the order of the numbers in their
    names and matched by name, and mask/ if
    semantic_map is there: where the mask is 0 the semantic map is blackened, as in CHAMP. Instead of dwpose/ it may hold
    keypoints.npz: keypoints [F,134,2] in pixels, confidence [F,134], size [2] = (height, width) of the frame.
    Returns maps {kind: u8 [F,*size,3]}, each an array or what is read like one, frame by frame.
    Raises UserError when the folder, a map or a frame is missing, or nothing in it is of a kind the checkpoint knows.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of guidance maps")
    files = {name: _images(folder / name) for name in (*GUIDANCE_KINDS, "mask") if (folder / name).is_dir()}
    present = [kind for kind in kinds if kind in files]
    drawn = "dwpose" in kinds and "dwpose" not in files and (folder / "keypoints.npz").is_file()
    if not present and not drawn:
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise UserError(f"{folder}: the checkpoint is guided by {', '.join(kinds)}; the folder holds {found}")
    if "semantic_map" in present and "mask" not in files:
        raise UserError(f"{folder}: semantic_map/ needs mask/ beside it, to tell the person from the background")
    _check_same_frames(folder, {name: files[name] for name in (*present, "mask") if name in files})
    mask = ImageMaps(files["mask"], size, Image.Resampling.NEAREST) if "semantic_map" in present else None
    masks = {"semantic_map": mask}
    maps: dict[str, Any] = {kind: ImageMaps(files[kind], size, Image.Resampling.BICUBIC, masks.get(kind)) for kind in present}
    if drawn:
        maps["dwpose"] = _drawn(folder / "keypoints.npz", size)
    counts = {kind: len(frames) for kind, frames in maps.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"{folder}: the maps have different numbers of frames: {counts}")
    return {kind: maps[kind] for kind in kinds if kind in maps}


def open_instances(folder: Path, size: tuple[int, int]) -> ImageMaps | None:
    """Who each pixel belongs to, u8 [F,*size,3]: the grey values of folder/instances/*.png, 0 for nobody; None without that folder."""
    if not (folder / "instances").is_dir():
        return None
    return ImageMaps(_images(folder / "instances"), size, Image.Resampling.NEAREST)


def _images(folder: Path) -> dict[str, Path]:
    """Image files of a folder by name without suffix, frame_2 before frame_10."""
    paths = sorted((path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES), key=lambda path: in_order(path.stem))
    if not paths:
        raise UserError(f"{folder}: there are no frames; expected images named 0000.png, 0001.png and so on")
    for one, other in zip(paths, paths[1:]):
        if one.stem == other.stem:
            raise UserError(f"{folder}: {one.name} and {other.name} are the same frame; remove one of them")
    return {path.stem: path for path in paths}


def _check_same_frames(folder: Path, files: dict[str, dict[str, Path]]) -> None:
    """Every kind must have the same frames; the message names the first one missing."""
    every = sorted(set().union(*files.values()), key=in_order)
    for name, paths in files.items():
        missing = [stem for stem in every if stem not in paths]
        if missing:
            raise UserError(
                f"{folder}: {name}/ has {len(paths)} frames of {len(every)}; {missing[0]} is missing there "
                f"and present in {', '.join(k for k in files if missing[0] in files[k])}/"
            )


def _drawn(path: Path, size: tuple[int, int]) -> DrawnMaps:
    """The skeletons of keypoints.npz."""
    try:
        with np.load(path) as values:
            keypoints, confidence, frame = (np.asarray(values[k], np.float32) for k in ("keypoints", "confidence", "size"))
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot read it ({error}); expected arrays keypoints, confidence and size") from error
    if keypoints.ndim != 3 or keypoints.shape[1:] != (J, 2) or confidence.shape != keypoints.shape[:2] or not len(keypoints):
        raise UserError(f"{path}: keypoints {keypoints.shape} and confidence {confidence.shape}; expected [F,{J},2] and [F,{J}], F >= 1")
    if frame.shape != (2,) or not (frame > 0).all():
        raise UserError(f"{path}: size is {frame.tolist()}; expected (height, width) of the frame in pixels")
    scale = max(size[0] / frame[0], size[1] / frame[1])
    offset = (np.array(size[::-1]) - scale * frame[::-1]) / 2
    return DrawnMaps(keypoints * scale + offset, confidence, size)
