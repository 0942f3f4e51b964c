"""Image quality against the truth, frame by frame, over the whole frame and inside the person.

Frames are u8, or float in [0,1], [F,H,W,3]; every function gives one number a frame, f64 [F]. PSNR is that of real numbers (the
published tables have another one, metrics/disco.py); SSIM is Wang et al. 2004 with its own settings: an 11x11 Gaussian window of sigma
1.5, population covariance, each channel by itself, windows that lie wholly inside the frame. Work on the host, a frame a thread:
OpenCV filters a frame ten times faster than XLA does on the same cores.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

MARGIN = 5
"""Half width of SSIM's window: its map is this much smaller on every side."""
C1, C2 = 0.01**2, 0.03**2
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""MS-SSIM's exponents, of the full resolution first (Wang et al. 2003)."""
SMALLEST_MS = (2 * MARGIN + 1) * 2 ** (len(SCALES) - 1)
_WINDOW = np.exp(-(np.arange(-MARGIN, MARGIN + 1) ** 2) / (2 * 1.5**2))
_WINDOW /= _WINDOW.sum()


def each_frame(function: Callable[..., float], *videos: np.ndarray) -> np.ndarray:
    """f64 [F]: `function` of the frames of each number in the videos, all [F,...]."""
    lengths = {len(video) for video in videos}
    if len(lengths) != 1:
        raise ValueError(f"videos of {sorted(lengths)} frames: there is nothing to compare some with")
    with ThreadPoolExecutor() as pool:
        return np.array(list(pool.map(function, *videos)), np.float64)


def l1(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean absolute difference of frames [F,H,W,3], in parts of the full range: f64 [F] in [0,1], whatever the resolution."""
    return each_frame(lambda a, b: cv2.norm(a, b, cv2.NORM_L1) / a.size / _range(a), *_paired(x, y))


def psnr(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of frames [F,H,W,3]: f64 [F] in dB; inf where they are equal."""

    def one(a: np.ndarray, b: np.ndarray) -> float:
        square = cv2.norm(a, b, cv2.NORM_L2SQR) / a.size / _range(a) ** 2
        return -10 * np.log10(square) if square else np.inf

    return each_frame(one, *_paired(x, y))


def ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Structural similarity of frames [F,H,W,3], at least 11x11: f64 [F] in [-1,1]."""
    return each_frame(lambda a, b: cv2.mean(_ssim_map(a, b)[0])[:3], *_paired(x, y)).mean(-1)


def ms_ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM over five scales (Wang et al. 2003) of frames [F,H,W,3]: f64 [F] in [0,1]; nan for frames below 176 pixels."""

    def one(a: np.ndarray, b: np.ndarray) -> float:
        if min(a.shape[:2]) < SMALLEST_MS:
            return np.nan
        product = np.ones(3)
        for scale, exponent in enumerate(SCALES):
            if scale:
                a, b = (cv2.resize(_float(z), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for z in (a, b))
            whole, structure = _ssim_map(a, b)
            last = scale == len(SCALES) - 1
            product *= np.maximum(cv2.mean(whole if last else structure)[:3], 0.0) ** exponent
        return float(product.mean())

    return each_frame(one, *_paired(x, y))


def masked_psnr(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """PSNR over the pixels where mask [F,H,W] is 1: f64 [F]; nan where the mask is empty."""

    def one(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> float:
        apart = a[inside > 0].astype(np.float64) - b[inside > 0]
        square = np.mean(apart**2) / _range(a) ** 2 if apart.size else np.nan
        return -10 * np.log10(square) if square != 0 else np.inf

    return each_frame(one, *_paired(x, y), mask)


def masked_ssim(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """SSIM averaged over the windows whose centre lies where mask [F,H,W] is 1: f64 [F]; nan if there is none."""
    inner = slice(MARGIN, -MARGIN)

    def one(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> float:
        values = _ssim_map(a, b)[0][inside[inner, inner] > 0]
        return float(values.mean(dtype=np.float64)) if values.size else np.nan

    return each_frame(one, *_paired(x, y), mask)


def scores(truth: np.ndarray, generated: np.ndarray) -> dict[str, np.ndarray]:
    """{metric: f64 [F]} of generated frames [F,H,W,3] against the true ones: all that fit their size."""
    found = {"l1": l1(truth, generated), "psnr": psnr(truth, generated), "ssim": ssim(truth, generated)}
    if min(truth.shape[1:3]) >= SMALLEST_MS:
        found["ms_ssim"] = ms_ssim(truth, generated)
    return found


def person_scores(truth: np.ndarray, generated: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """{metric: f64 [F]} of generated frames [F,H,W,3] against the true ones where mask [F,H,W] is 1."""
    return {"psnr_person": masked_psnr(truth, generated, mask), "ssim_person": masked_ssim(truth, generated, mask)}


def mean_finite(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the finite ones of values [N]: identical frames (inf dB) and empty masks (nan) do not count. nan if none is left."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def _paired(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both of one dtype and size."""
    x, y = np.asarray(x), np.asarray(y)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"frames of {list(x.shape[1:])} and {list(y.shape[1:])} cannot be compared pixel by pixel")
    if x.dtype == y.dtype == np.uint8:
        return x, y
    return tuple(z / np.float32(255) if z.dtype == np.uint8 else z.astype(np.float32, copy=False) for z in (x, y))


def _range(frame: np.ndarray) -> float:
    return 255.0 if frame.dtype == np.uint8 else 1.0


def _float(frame: np.ndarray) -> np.ndarray:
    return np.multiply(frame, np.float32(1 / 255), dtype=np.float32) if frame.dtype == np.uint8 else frame


def _blur(image: np.ndarray) -> np.ndarray:
    """Means under SSIM's window [H-10,W-10,3]."""
    return cv2.sepFilter2D(image, cv2.CV_32F, _WINDOW, _WINDOW)[MARGIN:-MARGIN, MARGIN:-MARGIN]


def _ssim_map(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(SSIM, its part without luminance), each f32 [H-10,W-10,3], of two frames."""
    if min(a.shape[:2]) <= 2 * MARGIN:
        raise ValueError(f"frames of {a.shape[0]}x{a.shape[1]}: SSIM's window needs 11 pixels and more")
    a, b = _float(a), _float(b)
    mean_a, mean_b = _blur(a), _blur(b)
    means, product = mean_a * mean_a + mean_b * mean_b, mean_a * mean_b
    # Only the sum of both variances is needed, so one filter fewer.
    variances = _blur(a * a + b * b) - means
    covariance = _blur(a * b) - product
    structure = (2 * covariance + np.float32(C2)) / (variances + np.float32(C2))
    return structure * (2 * product + np.float32(C1)) / (means + np.float32(C1)), structure
