"""Guidance of a video: given maps, the skeleton that music drives, or both mixed."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from champ_jax.errors import UserError

MUSIC_SHARE = 0.7
"""What the music counts where maps are given too."""


class Maps(NamedTuple):
    """Guidance of a clip of `count` frames.

    of: kind, or "music" for the skeleton that music drives, to (maps, weights): maps u8 [F or more,H,W,3], an array or what is
    read like one (infer/maps.py); weights f32 [F], what the maps count in each frame.
    """

    count: int
    of: Mapping[str, tuple[Any, np.ndarray]]

    def read(self, kinds: Sequence[str], index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames `index` [m] for `kinds`: u8 [m,G,H,W,3] and weights f32 [m,G], both 0 for kinds that are not there."""
        shape = next(iter(self.of.values()))[0].shape[1:]
        pixels = np.zeros((len(index), len(kinds), *shape), np.uint8)
        weights = np.zeros((len(index), len(kinds)), np.float32)
        for i, kind in enumerate(kinds):
            if kind in self.of:
                maps, counts = self.of[kind]
                pixels[:, i], weights[:, i] = maps[index], counts[index]
        return pixels, weights


def whole(guidance: Mapping[str, Any]) -> Maps:
    """Maps {kind: u8 [F,H,W,3]} that all count 1."""
    count = len(next(iter(guidance.values())))
    return Maps(count, {kind: (maps, np.ones(count, np.float32)) for kind, maps in guidance.items()})


def mix_with_music(guidance: Mapping[str, Any], skeleton: Any, share: float | Mapping[str, Any] | np.ndarray) -> Maps:
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
    mixed = {kind: (maps, 1 - shares[kind]) for kind, maps in guidance.items()}
    return Maps(frames, {"music": (skeleton, shares["dwpose"]), **mixed})


def _share(value: Any, frames: int) -> np.ndarray:
    """f32 [F] of a number or of F numbers."""
    values = np.asarray(value, np.float32)
    if values.shape not in ((), (frames,)) or not ((values >= 0) & (values <= 1)).all():
        raise UserError(
            f"music share {np.array2string(values, threshold=8)}: give a number from 0 to 1, or one for each of {frames} frames"
        )
    return np.broadcast_to(values, (frames,))
