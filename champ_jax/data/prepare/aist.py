"""AIST++'s annotations of dances (Li et al. 2021): 17 COCO joints seen by nine cameras, exactly 60 times a second, without pixels.

They teach music to pose. Hands, face, feet and all else that COCO-17 lacks have confidence 0 and count in no loss. The annotations
are CC BY 4.0; videos and songs stand under AIST's own terms, so songs are read where the user has put them and never stored.
"""

import io
import pickle
import re
from fractions import Fraction
from pathlib import Path

import numpy as np

from champ_jax.data.media import AUDIO_SUFFIXES
from champ_jax.data.prepare.source import Source, inside
from champ_jax.errors import UserError
from champ_jax.pose.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, THRESHOLD, J

FPS = Fraction(60)
SIZE = (1080, 1920)
LICENSE = "AIST++ annotations: CC BY 4.0 (Google); music and videos: AIST Dance Video Database terms of use"
VIEW = 0  # camera c01 stands in front
FROM_COCO = (0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""COCO's joint of body points 0 and 2 to 17; point 1, the neck, is the middle of the shoulders."""
LARGEST = 64 << 20  # bytes of a file; the longest sequence takes 4 MB
GENRES = ("BR", "HO", "JB", "JS", "KR", "LH", "LO", "MH", "PO", "WA")
_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_ALLOWED = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}  # fmt: skip


class _Arrays(pickle.Unpickler):
    """Reads pickles of NumPy arrays; anything else that a pickle can name is refused before it is called."""

    def find_class(self, module, name):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return super().find_class(module, name)


def find_sequences(annotations: Path, folder: Path) -> tuple[list[Source], dict[str, str]]:
    """The sequences of a folder `keypoints2d`, in the splits of `splits/` and without those of `ignore_list.txt`.

    Returns (sources, {name: why it is left out}).
    """
    root = annotations.parent
    ignored = {line.split(",")[0].strip() for line in _lines(root / "ignore_list.txt")}
    splits = {}
    for name, part in _SPLITS.items():
        for line in _lines(root / "splits" / f"pose_{name}.txt"):
            splits[line] = part
    sources, refused = [], {}
    for path in sorted(annotations.glob("*.pkl")):
        name = path.stem
        if name in ignored:
            refused[name] = "it is in ignore_list.txt"
            continue
        sources.append(
            Source(
                name=name,
                layout="aist",
                path=path,
                fps=FPS,
                music=_song(name, (folder, root)),
                subject=_word(name, r"d\d+"),
                license=LICENSE,
                part=splits.get(name, ""),
            )
        )
    return sources, refused


def read_sequence(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(keypoints f32 [T,134,2] in pixels of 1920x1080, confidence f32 [T,134]) of a sequence, seen from the front.

    Raises:
      UserError: the file is no such annotation, or this camera saw nothing.
    """
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path}: {path.stat().st_size >> 20} MB; an annotation of AIST++ has at most {LARGEST >> 20}")
    try:
        held = _Arrays(io.BytesIO(path.read_bytes())).load()
        points = np.asarray(held["keypoints2d"], np.float32)
    except Exception as error:  # whatever a damaged pickle leads to
        raise UserError(f"{path}: no annotation of AIST++ ({error}); expected a pickle with keypoints2d [9,T,17,3]") from error
    if points.ndim != 4 or points.shape[2:] != (17, 3) or len(points) <= VIEW or not points.shape[1]:
        raise UserError(f"{path}: keypoints2d is {list(points.shape)}, expected [9,T,17,3]")
    return from_coco(points[VIEW, :, :, :2], points[VIEW, :, :, 2], str(path))


def from_coco(points: np.ndarray, confidence: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The 134 points of COCO's 17: points f32 [T,17,2], confidence f32 [T,17] in 0..1. UserError where not one is seen."""
    seen = np.isfinite(points).all(-1) & np.isfinite(confidence) & (confidence > 0)
    if not seen.any():
        raise UserError(f"{where}: no joint is seen from the front camera; leave the sequence out")
    points, confidence = np.where(seen[..., None], points, 0), np.where(seen, confidence.clip(0, 1), 0)
    keypoints, certain = np.zeros((len(points), J, 2), np.float32), np.zeros((len(points), J), np.float32)
    places = [0, *range(2, 18)]
    keypoints[:, places], certain[:, places] = points[:, FROM_COCO], confidence[:, FROM_COCO]
    shoulders = certain[:, [RIGHT_SHOULDER, LEFT_SHOULDER]].min(1)
    certain[:, NECK] = np.where(shoulders > THRESHOLD, shoulders, 0)
    middle = keypoints[:, [RIGHT_SHOULDER, LEFT_SHOULDER]].mean(1)
    keypoints[:, NECK] = np.where(certain[:, NECK, None] > 0, middle, 0)
    return keypoints, certain


def style_of(name: str) -> int:
    """The number of the genre in a sequence's name (gBR -> 0), -1 for none."""
    genre = _word(name, r"g[A-Z]{2}")[1:]
    return GENRES.index(genre) if genre in GENRES else -1


def song_of(name: str) -> str:
    """mBR0 of gBR_sBM_cAll_d04_mBR0_ch01."""
    return _word(name, r"m[A-Z]{2}\d")


def _word(name: str, pattern: str) -> str:
    return next((word for word in name.split("_") if re.fullmatch(pattern, word)), "")


def _song(name: str, folders: tuple[Path, ...]) -> Path | None:
    names = [song_of(name) + suffix for suffix in AUDIO_SUFFIXES]
    places = [place / sub for place in folders for sub in ("music", "wav", "audio", "")]
    return next((place / file for place in places for file in names if (place / file).is_file() and inside(place / file, folders[0])), None)


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []
