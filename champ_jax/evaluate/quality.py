"""Scores of frames against the true ones, under the protocol that makes sense and under the one that papers publish."""

from collections.abc import Callable

import numpy as np

from champ_jax.evaluate.catalogue import DISCO, STRICT
from champ_jax.evaluate.networks import Networks
from champ_jax.metrics import disco, image


def frame_scores(
    truth: np.ndarray,
    generated: np.ndarray,
    protocol: str = STRICT,
    networks: Networks | None = None,
    mask: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """{metric: f64 [F]} of generated frames u8 [F,H,W,3] against the true ones.

    protocol: "strict" for numbers that compare across resolutions and mean what they say; "disco-compat" for those of published
    tables, with the wrapped PSNR, L1 by pixel count, grey SSIM and LPIPS of [0,1]; there the generated frames are scaled to the truth.
    networks: for LPIPS; left out without. mask: u8 [F,H,W], 1 on the person: adds scores inside it, of the strict kind.
    """
    if protocol == DISCO:
        generated = disco.resized(generated, truth.shape[1:3])
    scores = (disco if protocol == DISCO else image).scores(truth, generated)
    if mask is not None:
        scores |= image.person_scores(truth, generated, mask)
    for name in ("lpips_alex", "lpips_vgg") if networks else ():
        if network := networks[name]:
            scores[name] = network.call(*(lpips_pixels(frames, protocol) for frames in (generated, truth))).astype(np.float64)
    return scores


def lpips_pixels(frames: np.ndarray, protocol: str) -> np.ndarray:
    """f32 [F,H,W,3] of u8 frames: in [-1,1], where LPIPS was trained, or in [0,1], where DisCo asks it."""
    pixels = frames.astype(np.float32) / np.float32(255)
    return pixels if protocol == DISCO else 2 * pixels - 1


class Quality:
    """Collects blocks of one clip: the scores of every frame, and further ones of the clip's own, `Clip.scores`."""

    def __init__(self, protocol: str, networks: Networks, more: Callable[[np.ndarray, int], dict[str, np.ndarray]] | None):
        self._protocol, self._networks, self._more, self._count = protocol, networks, more, 0
        self._found: dict[str, list[float]] = {}

    def add(self, generated: np.ndarray, reference: np.ndarray, mask: np.ndarray | None) -> None:
        """The next frames of both, u8 [n,H,W,3], and masks [n,H,W]."""
        found = frame_scores(reference, generated, self._protocol, self._networks, mask)
        found |= self._more(generated, self._count) if self._more is not None else {}
        for name, frames in found.items():
            self._found.setdefault(name, []).extend(frames)
        self._count += len(generated)

    def values(self) -> dict[str, float]:
        """{metric: mean over the frames that have a finite value}; infinite where all frames are equal to the reference's."""
        return {name: float("inf") if np.isinf(frames).all() else image.mean_finite(frames) for name, frames in self._found.items()}

    def series(self) -> dict[str, list[float]]:
        """{metric: its value of each frame}."""
        return {name: [round(float(value), 6) for value in frames] for name, frames in self._found.items()}

    def notes(self) -> list[str]:
        """What is to be known of the means."""
        same = {name: int(np.isinf(frames).sum()) for name, frames in self._found.items()}
        return [f"{n} frames are equal to the reference: they stay out of the mean of {name}" for name, n in same.items() if n]
