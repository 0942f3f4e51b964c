"""A folder of guidance maps, one sub-folder a kind, read and checked as CHAMP lays it out."""

import os
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from champ_jax.data.sources import IMAGE_SUFFIXES, in_order
from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.errors import UserError
from champ_jax.infer.photo import fit, load_image
from champ_jax.pose.draw import draw_clip
from champ_jax.pose.skeleton import J


def load_guidance(
    folder: str | os.PathLike, kinds: tuple[str, ...], size: tuple[int, int]
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """The maps of `folder` that a checkpoint with `kinds` can use, fitted to `size` (height, width).

    folder holds depth/, normal/, semantic_map/, dwpose/ with one image a frame, in the order of the numbers in their
    names and matched by name, and mask/ if
    semantic_map is there: where the mask is 0 the semantic map is blackened, as in CHAMP. Instead of dwpose/ it may hold
    keypoints.npz: keypoints [F,134,2] in pixels, confidence [F,134], size [2] = (height, width) of the frame.
    Returns maps {kind: u8 [F,*size,3]} and the mask u8 [F,*size] of 0/1, or None without mask/.
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
    maps = {kind: _stack(files[kind], size, Image.Resampling.BICUBIC) for kind in present}
    mask = None
    if "mask" in files:
        mask = (_stack(files["mask"], size, Image.Resampling.NEAREST).max(-1) > 0).astype(np.uint8)
    if "semantic_map" in maps:
        maps["semantic_map"] = maps["semantic_map"] * mask[..., None]
    if drawn:
        maps["dwpose"] = _draw(folder / "keypoints.npz", size)
    counts = {kind: len(frames) for kind, frames in maps.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"{folder}: the maps have different numbers of frames: {counts}")
    return {kind: maps[kind] for kind in kinds if kind in maps}, mask


def load_instances(folder: Path, size: tuple[int, int]) -> np.ndarray | None:
    """Who each pixel belongs to, u8 [F,*size]: the grey values of folder/instances/*.png, 0 for nobody; None without that folder."""
    if not (folder / "instances").is_dir():
        return None
    return _stack(_images(folder / "instances"), size, Image.Resampling.NEAREST)[..., 0]


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


def _stack(files: dict[str, Path], size: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    return np.stack([fit(load_image(path), size, resample)[0] for path in files.values()])


def _draw(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The skeleton map u8 [F,*size,3] of keypoints.npz."""
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
    return draw_clip(keypoints * scale + offset, confidence, size)
