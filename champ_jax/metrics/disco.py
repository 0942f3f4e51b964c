"""The numbers that most papers on human animation publish, as DisCo's evaluation computes them, faults included.

From tool/metrics/ssim_l1_lpips_psnr.py of DisCo, as later papers used it. Its PSNR squares differences of uint8 that wrap around: two
unrelated images have 27.9 dB. Its L1 is divided by the number of pixels, so it depends on the resolution. Its SSIM is that of the grey
images, with a flat 7x7 window. Its LPIPS is given [0,1] where the network wants [-1,1] (see evaluate/quality.py). For comparing with
those tables alone; metrics/image.py has the numbers that mean something. Frames are u8 [F,H,W,3].
"""

import cv2
import numpy as np

from champ_jax.metrics.image import each_frame

WINDOW = 7
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
CAP = 100.0
"""What identical frames score, in dB."""


def resized(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """u8 [F,H,W,3] at another size (height, width), bilinear without smoothing, as DisCo does where sizes differ."""
    if frames.shape[1:3] == size:
        return frames
    return np.stack([cv2.resize(frame, size[::-1]) for frame in frames])


def psnr(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """f64 [F] in dB of u8 frames [F,H,W,3], from differences and squares that wrap around at 256; 100 where that gives zero."""

    def one(a: np.ndarray, b: np.ndarray) -> float:
        square = np.mean((a - b) ** 2)
        return 20 * np.log10(255.0 / np.sqrt(square)) if square else CAP

    return each_frame(one, *_bytes(x, y))


def l1(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """f64 [F]: mean absolute difference of u8 frames [F,H,W,3] in grey levels, divided by H*W."""
    return each_frame(lambda a, b: cv2.norm(a, b, cv2.NORM_L1) / a.size / (a.shape[0] * a.shape[1]), *_bytes(x, y))


def ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """f64 [F]: SSIM of the grey images of u8 frames [F,H,W,3], flat 7x7 window, sample covariance (scikit-image's defaults)."""
    return each_frame(_grey_ssim, *_bytes(x, y))


def scores(truth: np.ndarray, generated: np.ndarray) -> dict[str, np.ndarray]:
    """{metric: f64 [F]} of generated frames u8 [F,H,W,3] against the true ones, of one size."""
    return {"l1": l1(truth, generated), "psnr": psnr(truth, generated), "ssim": ssim(truth, generated)}


def _bytes(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if x.dtype != np.uint8 or y.dtype != np.uint8:
        raise ValueError(f"DisCo's numbers are those of uint8 frames, got {x.dtype} and {y.dtype}")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"frames of {list(x.shape[1:])} and {list(y.shape[1:])} cannot be compared pixel by pixel")
    return x, y


def _grey_ssim(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (cv2.cvtColor(z, cv2.COLOR_RGB2GRAY).astype(np.float64) for z in (a, b))
    inner, sample = slice(WINDOW // 2, -(WINDOW // 2)), WINDOW**2 / (WINDOW**2 - 1)

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.blur(image, (WINDOW, WINDOW))[inner, inner]

    mean_a, mean_b = mean(a), mean(b)
    variances = sample * (mean(a * a) + mean(b * b) - mean_a**2 - mean_b**2)
    covariance = sample * (mean(a * b) - mean_a * mean_b)
    values = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2) / ((mean_a**2 + mean_b**2 + _C1) * (variances + _C2))
    return float(values.mean())
