"""Which of several people a rendered frame shows, by the mean colour of each body part."""

from collections.abc import Sequence

import numpy as np

from champ_jax.metrics.colour import identity_top1, region_colours

MIN_REGION_PIXELS = 12


class IdentityJudge:
    """Tells which of P people a frame shows, by the mean colour of each body part.

    A part is a colour of the semantic map. The gallery are the P people's photos: a generated frame is measured with
    the true frame's map, and is right when its parts' mean Lab colours lie nearest to those of the right person's photo.
    Parts seen in fewer than 12 pixels, or not seen in the photo, do not count. True frames score about 1; an output
    that does not look at the photo scores about 1/P.
    """

    def __init__(self, photos: np.ndarray, maps: np.ndarray, identities: Sequence[int]):
        """photos: u8 [P,H,W,3]. maps: u8 [P,H,W,3], their semantic maps. identities: the P people's numbers."""
        self.identities = list(identities)
        colours = maps.reshape(-1, 3)
        self.palette = np.unique(colours[colours.any(-1)], axis=0)
        self.gallery = self.colours(photos, maps)

    def colours(self, frames: np.ndarray, maps: np.ndarray) -> np.ndarray:
        """Mean Lab colours f32 [F,parts,3] of u8 frames [F,H,W,3] with semantic maps u8 [F,H,W,3]."""
        regions = semantic_regions(maps, self.palette)
        return region_colours(frames / np.float32(255), regions, len(self.palette), MIN_REGION_PIXELS)

    def right(self, frames: np.ndarray, maps: np.ndarray, identity: int) -> np.ndarray:
        """bool [F]: whether each of u8 frames [F,H,W,3] looks most like person number `identity`."""
        return identity_top1(self.colours(frames, maps), self.gallery, self.identities.index(identity))

    def apart(self, frames: np.ndarray, maps: np.ndarray, identity: int) -> np.ndarray:
        """f64 [F]: mean Lab distance of body parts in u8 frames [F,H,W,3] to the photo of person `identity`; nan where none is seen."""
        photo = self.gallery[self.identities.index(identity)]
        distance = np.linalg.norm(self.colours(frames, maps) - photo, axis=-1).astype(np.float64)
        seen = np.isfinite(distance)
        return np.where(seen.any(-1), np.where(seen, distance, 0).sum(-1) / np.maximum(seen.sum(-1), 1), np.nan)


def semantic_regions(maps: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """int [F,H,W]: which of the palette's colours [P,3] each pixel of u8 maps [F,H,W,3] is nearest to; -1 on black."""
    colours, index = np.unique(maps.reshape(-1, 3), axis=0, return_inverse=True)
    apart = np.linalg.norm(colours[:, None].astype(np.float32) - palette[None], axis=-1)
    nearest = np.where(colours.any(-1), apart.argmin(1), -1)
    return nearest[index.reshape(-1)].reshape(maps.shape[:-1])
