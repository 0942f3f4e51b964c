"""Who a video shows: one person in up to eight photos, or several people, each in the pixels that are theirs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from champ_jax.errors import UserError
from champ_jax.infer.photo import Photo
from champ_jax.pose.draw import draw_clip


class Person(NamedTuple):
    """images, skeletons: u8 [R,H,W,3] of the photos and of the poses in them. weights: f32 [R], what each photo counts.
    face: f32 [E] or [F,E] of each frame, or None. owners: u8 [F,H,W,R], 1 where a pixel may read a photo, or None."""

    images: np.ndarray
    skeletons: np.ndarray
    weights: np.ndarray
    face: np.ndarray | None
    owners: np.ndarray | None = None

    def weights_of_cells(self, grid: tuple[int, int]) -> np.ndarray:
        """What each photo counts for each cell of latent grids (h, w), f32 [F,h,w,R], by the pixel in the cell's middle."""
        rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(grid, self.owners.shape[1:3]))
        return self.owners[:, rows][:, :, columns] * self.weights


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


def owners(instances: np.ndarray, people: Sequence[int], weights: np.ndarray) -> np.ndarray:
    """u8 [F,H,W,R]: 1 where a pixel of `instances` [F,H,W] may read photo r, which shows people[r]; nobody's pixels read all.

    weights: f32 [R], what each photo counts. Raises UserError for a person without a photo that counts.
    """
    if not all(1 <= person <= 255 for person in people):
        raise UserError(f"people {list(people)}: they are numbered from 1 to 255")
    missing = sorted(set(np.unique(instances).tolist()) - {0, *np.asarray(people)[weights > 0].tolist()})
    if missing:
        raise UserError(
            f"instances: people {missing} are in the frames, but photos show {list(people)} and count {weights.tolist()}: "
            "give each a photo that counts"
        )
    return np.stack([(instances == person) | (instances == 0) for person in people], axis=-1).astype(np.uint8)


def check_instances(instances: np.ndarray, frames: int, size: tuple[int, int]) -> None:
    """Raises UserError unless instances are u8 [frames, *size]."""
    if instances.dtype != np.uint8 or instances.shape != (frames, *size):
        raise UserError(
            f"instances are {instances.dtype}{list(instances.shape)}: expected uint8 [{frames},{size[0]},{size[1]}], as the maps"
        )
