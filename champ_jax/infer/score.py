"""How good generated clips are: against the truth, against copying the photo, and whose clothes and skin they show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from champ_jax.metrics import image as metrics

MIN_REGION_PIXELS = 12


@dataclass(frozen=True)
class TruthClip:
    """A clip as it really is. F frames.

    frames: u8 [F,H,W,3]. mask: u8 [F,H,W], 1 on the person. semantic_map: u8 [F,H,W,3], one colour a body part.
    photo: u8 [H,W,3] and photo_map: u8 [H,W,3], the reference and its semantic map. identity: whose clip it is.
    """

    frames: np.ndarray
    mask: np.ndarray
    semantic_map: np.ndarray
    photo: np.ndarray
    photo_map: np.ndarray
    identity: int


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
        return metrics.region_colours(frames / np.float32(255), regions, len(self.palette), MIN_REGION_PIXELS)

    def right(self, frames: np.ndarray, maps: np.ndarray, identity: int) -> np.ndarray:
        """bool [F]: whether each of u8 frames [F,H,W,3] looks most like person number `identity`."""
        return metrics.identity_top1(self.colours(frames, maps), self.gallery, self.identities.index(identity))


def semantic_regions(maps: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """int [F,H,W]: which of the palette's colours [P,3] each pixel of u8 maps [F,H,W,3] is nearest to; -1 on black."""
    colours, index = np.unique(maps.reshape(-1, 3), axis=0, return_inverse=True)
    apart = np.linalg.norm(colours[:, None].astype(np.float32) - palette[None], axis=-1)
    nearest = np.where(colours.any(-1), apart.argmin(1), -1)
    return nearest[index.reshape(-1)].reshape(maps.shape[:-1])


def score_clip(output: np.ndarray, truth: TruthClip, judge: IdentityJudge) -> dict[str, np.ndarray]:
    """Scores [F] of each frame of u8 output [F,H,W,3]: psnr, ssim, both inside the person, and identity_top1 (0 or 1)."""
    x, y = truth.frames / np.float32(255), output / np.float32(255)
    return {
        "psnr": np.asarray(metrics.psnr(x, y)),
        "ssim": np.asarray(metrics.ssim(x, y)),
        "psnr_person": np.asarray(metrics.masked_psnr(x, y, truth.mask)),
        "ssim_person": np.asarray(metrics.masked_ssim(x, y, truth.mask)),
        "identity_top1": judge.right(output, truth.semantic_map, truth.identity).astype(np.float32),
    }


def mean_scores(clips: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """The mean over frames, then over clips, of each score; frames without a person do not count inside it."""
    return {name: metrics.mean_finite([metrics.mean_finite(clip[name]) for clip in clips]) for name in clips[0]}


def copy_of(photo: np.ndarray, frames: int) -> np.ndarray:
    """The photo u8 [H,W,3] as a video that stands still, [F,H,W,3]: what any model has to beat."""
    return np.broadcast_to(photo, (frames, *photo.shape))
