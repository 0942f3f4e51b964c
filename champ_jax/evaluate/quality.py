"""Scores of frames against the true ones, under the protocol that makes sense and under the one that papers publish."""

import numpy as np

from champ_jax.evaluate.networks import Networks
from champ_jax.metrics import disco, image

STRICT, DISCO = "strict", "disco-compat"
PROTOCOLS = (STRICT, DISCO)


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
    scores: dict[str, np.ndarray] = {}
    if protocol == DISCO:
        generated = disco.resized(generated, truth.shape[1:3])
        scores = {"l1": disco.l1(truth, generated), "psnr": disco.psnr(truth, generated), "ssim": disco.ssim(truth, generated)}
    else:
        scores = {"l1": image.l1(truth, generated), "psnr": image.psnr(truth, generated), "ssim": image.ssim(truth, generated)}
        if min(truth.shape[1:3]) >= image.SMALLEST_MS:
            scores["ms_ssim"] = image.ms_ssim(truth, generated)
    if mask is not None:
        scores["psnr_person"] = image.masked_psnr(truth, generated, mask)
        scores["ssim_person"] = image.masked_ssim(truth, generated, mask)
    for name in ("lpips_alex", "lpips_vgg") if networks else ():
        if network := networks[name]:
            scores[name] = network.call(*(lpips_pixels(frames, protocol) for frames in (generated, truth))).astype(np.float64)
    return scores


def lpips_pixels(frames: np.ndarray, protocol: str) -> np.ndarray:
    """f32 [F,H,W,3] of u8 frames: in [-1,1], where LPIPS was trained, or in [0,1], where DisCo asks it."""
    pixels = frames.astype(np.float32) / np.float32(255)
    return pixels if protocol == DISCO else 2 * pixels - 1
