"""Who a video shows: one person in up to eight photos, or several people, each in the pixels that are theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from champ_jax.errors import UserError
from champ_jax.infer.photo import Photo
from champ_jax.pose.draw import draw_clip


class Person(NamedTuple):
    """images, skeletons: u8 [R,H,W,3] of the photos and of the poses in them. weights: f32 [R], what each photo counts.
    face: f32 [E] or [F,E] of each frame, or None. instances: u8 [F,H,W] or, read like one, [F,H,W,3], who each pixel belongs to,
    or None; people: whom each photo shows."""

    images: np.ndarray
    skeletons: np.ndarray
    weights: np.ndarray
    face: np.ndarray | None
    instances: Any = None
    people: Sequence[int] = ()

    def weights_of_cells(self, grid: tuple[int, int], index: np.ndarray) -> np.ndarray:
        """What each photo counts for each cell of latent grids (h, w) in frames `index` [m], f32 [m,h,w,R], by the pixel in the
        cell's middle."""
        instances = grey(self.instances[index])
        rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(grid, instances.shape[1:]))
        return owners(instances[:, rows][:, :, columns], self.people) * self.weights

    def padded(self, count: int) -> Person:
        """The same person in `count` photos, the added ones of which count nothing."""
        more = count - len(self.images)
        pad = lambda x: np.concatenate([x, np.repeat(x[:1], more, 0)])  # noqa: E731
        weights = np.append(self.weights, np.zeros(more, np.float32))
        # Added photos show nobody: a pixel that is nobody's reads them too, and they count nothing there.
        return self._replace(images=pad(self.images), skeletons=pad(self.skeletons), weights=weights, people=[*self.people, *[0] * more])


def who(photos: list[Photo], weights: Sequence[float] | None, face: np.ndarray | None) -> Person:
    """The photos as one person; the face is the given one, or the mean of those that the photos have.

    Raises UserError for weights that do not fit the photos or are all 0.
    """
    weights = np.ones(len(photos), np.float32) if weights is None else np.asarray(weights, np.float32)
    if weights.shape != (len(photos),) or not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise UserError(f"photo weights {weights.tolist()}: give {len(photos)} numbers of at least 0, one for each photo, not all 0")
    skeletons = [draw_clip(photo.keypoints[None], photo.confidence[None], photo.image.shape[:2])[0] for photo in photos]
    known = [photo.face for photo in photos if photo.face is not None]
    if face is None and known:
        face = np.mean(known, axis=0)
        face = face / max(float(np.linalg.norm(face)), 1e-6)
    return Person(np.stack([photo.image for photo in photos]), np.stack(skeletons), weights, face)


def owners(instances: np.ndarray, people: Sequence[int]) -> np.ndarray:
    """u8 [F,H,W,R]: 1 where a pixel of `instances` [F,H,W] may read photo r, which shows people[r]; nobody's pixels read all."""
    return np.stack([(instances == person) | (instances == 0) for person in people], axis=-1).astype(np.uint8)


def grey(instances: np.ndarray) -> np.ndarray:
    """u8 [m,H,W] of instances that were read as images [m,H,W,3], or are so already."""
    return instances[..., 0] if instances.ndim == 4 else instances


def check_instances(instances: Any, frames: int, size: tuple[int, int], people: Sequence[int], weights: np.ndarray) -> None:
    """Raises UserError unless instances are u8 [frames, *size] (or [frames, *size, 3]) of people with a photo that counts.

    people: whom each photo shows. weights: f32 [R], what each photo counts.
    """
    if instances.dtype != np.uint8 or instances.shape not in ((frames, *size), (frames, *size, 3)):
        raise UserError(
            f"instances are {instances.dtype}{list(instances.shape)}: expected uint8 [{frames},{size[0]},{size[1]}], as the maps"
        )
    if not all(1 <= person <= 255 for person in people):
        raise UserError(f"people {list(people)}: they are numbered from 1 to 255")
    found: set[int] = set()
    for start in range(0, frames, 16):
        found |= set(np.unique(grey(instances[start : start + 16])).tolist())
    missing = sorted(found - {0, *np.asarray(people)[weights > 0].tolist()})
    if missing:
        raise UserError(
            f"instances: people {missing} are in the frames, but photos show {list(people)} and count {weights.tolist()}: "
            "give each a photo that counts"
        )
