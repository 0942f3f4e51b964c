"""Guidance of a video: given maps, the skeleton that music drives, or both mixed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from champ_jax.errors import UserError

MUSIC_SHARE = 0.7
"""What the music counts where maps are given too."""


class Maps(NamedTuple):
    """kinds: G names, "music" for the skeleton that music drives. pixels: u8 [F,G,H,W,3]. weights: f32 [F,G], what each
    counts in each frame."""

    kinds: tuple[str, ...]
    pixels: np.ndarray
    weights: np.ndarray


def whole(guidance: Mapping[str, np.ndarray]) -> Maps:
    """Maps {kind: u8 [F,H,W,3]} that all count 1."""
    pixels = np.stack(list(guidance.values()), 1)
    return Maps(tuple(guidance), pixels, np.ones(pixels.shape[:2], np.float32))


def mix_with_music(guidance: Mapping[str, np.ndarray], skeleton: np.ndarray, share: float | Mapping[str, Any] | np.ndarray) -> Maps:
    """The music's skeleton u8 [F,H,W,3] and given maps {kind: u8 [F or more,H,W,3]}, whose frames beyond F are left out.

    share: what the music counts, 0 to 1: a number, one for each frame [F], or {kind: either} (MUSIC_SHARE for kinds left out).
    The skeleton counts the share of "dwpose", each given map 1 - the share of its kind.
    Raises UserError for fewer maps than frames and for shares that are none.
    """
    frames = len(skeleton)
    short = {kind: len(maps) for kind, maps in guidance.items() if len(maps) < frames}
    if short:
        raise UserError(f"the video has {frames} frames, but the guidance only {min(short.values())}: give a map for each frame")
    of = share if isinstance(share, Mapping) else dict.fromkeys((*guidance, "dwpose"), share)
    unknown = sorted(set(of) - {*guidance, "dwpose"})
    if unknown:
        raise UserError(f"music share of {', '.join(unknown)}: the guidance has {', '.join(guidance)}")
    shares = {kind: _share(of.get(kind, MUSIC_SHARE), frames) for kind in (*guidance, "dwpose")}
    weights = [shares["dwpose"], *(1 - shares[kind] for kind in guidance)]
    pixels = [skeleton, *(maps[:frames] for maps in guidance.values())]
    return Maps(("music", *guidance), np.stack(pixels, 1), np.stack(weights, 1).astype(np.float32))


def _share(value: Any, frames: int) -> np.ndarray:
    """f32 [F] of a number or of F numbers."""
    values = np.asarray(value, np.float32)
    if values.shape not in ((), (frames,)) or not ((values >= 0) & (values <= 1)).all():
        raise UserError(
            f"music share {np.array2string(values, threshold=8)}: give a number from 0 to 1, or one for each of {frames} frames"
        )
    return np.broadcast_to(values, (frames,))
