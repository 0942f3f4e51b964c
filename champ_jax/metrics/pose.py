"""How well a pose is met: mean error, share of correct keypoints, object keypoint similarity.

Predicted and true keypoints are [F,J,2] pixels with confidence [F,J]. What the truth does not show does not count; what the
prediction lacks where the truth shows it is a miss.
"""

import numpy as np

from champ_jax.pose.skeleton import BODY, THRESHOLD

SIGMAS = 2 * np.array([26, 79, 79, 72, 62, 79, 72, 62, 107, 87, 89, 107, 87, 89, 25, 25, 35, 35]) / 1000
"""Twice COCO's scatter of each of the 18 body joints in our order; the neck, which COCO lacks, has the shoulders'."""
OKS_LEVELS = np.arange(0.5, 1.0, 0.05)


def body_height(keypoints: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """f64 [F]: height in pixels of the visible body in each frame of [F,J,2], confidence [F,J]; nan where nobody is seen."""
    seen = confidence[:, BODY] >= THRESHOLD
    y = np.where(seen, keypoints[:, BODY, 1], np.nan).astype(np.float64)
    anyone = seen.any(-1)
    height = np.full(len(y), np.nan)
    height[anyone] = np.nanmax(y[anyone], -1) - np.nanmin(y[anyone], -1)
    return np.where(height > 0, height, np.nan)


def errors(predicted: np.ndarray, sure: np.ndarray, truth: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """f64 [F,18]: distance of each body joint in parts of the body's height in that clip; nan where the truth [F,J,2], confidence
    [F,J], does not show it, inf where the prediction [F,J,2], `sure` [F,J], lacks it."""
    scale = np.nanmedian(body_height(truth, confidence)) if (confidence[:, BODY] >= THRESHOLD).any() else np.nan
    apart = np.linalg.norm(predicted[:, BODY].astype(np.float64) - truth[:, BODY], axis=-1) / scale
    apart = np.where(sure[:, BODY] >= THRESHOLD, apart, np.inf)
    return np.where(confidence[:, BODY] >= THRESHOLD, apart, np.nan)


def scores(predicted: np.ndarray, sure: np.ndarray, truth: np.ndarray, confidence: np.ndarray) -> dict[str, float]:
    """{metric: scalar} of a predicted pose track [F,J,2], `sure` [F,J], against the true one; nan where the truth shows nobody."""
    apart = errors(predicted, sure, truth, confidence)
    similarity = oks(predicted, sure, truth, confidence)
    return {
        "pck_05": pck(apart, 0.05),
        "pck_10": pck(apart, 0.1),
        "mpjpe": mpjpe(apart),
        "oks": float(np.nanmean(similarity)) if np.isfinite(similarity).any() else float("nan"),
        "oks_ap": oks_precision(similarity),
    }


def mpjpe(apart: np.ndarray) -> float:
    """Mean error of `errors` [F,18] over the joints that both show, in body heights: a scalar; nan if there is none."""
    found = apart[np.isfinite(apart)]
    return float(found.mean()) if found.size else float("nan")


def pck(apart: np.ndarray, share: float) -> float:
    """Share of the true joints of `errors` [F,18] that are met within `share` of the body's height: a scalar; nan without a truth."""
    known = ~np.isnan(apart)
    return float((apart[known] <= share).mean()) if known.any() else float("nan")


def oks(predicted: np.ndarray, sure: np.ndarray, truth: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """f64 [F]: COCO's object keypoint similarity over the body joints; the person's area is taken from the box of the true joints.

    predicted and truth [F,J,2], `sure` and confidence [F,J]. nan where the truth shows no joint.
    """
    seen = confidence[:, BODY] >= THRESHOLD
    points = np.where(seen[..., None], truth[:, BODY].astype(np.float64), np.nan)
    values = np.full(len(points), np.nan)
    for frame in np.flatnonzero(seen.any(-1)):
        known = seen[frame]
        low, high = np.nanmin(points[frame], 0), np.nanmax(points[frame], 0)
        area = max(float(np.prod(high - low)), 1.0)
        square = ((predicted[frame, BODY] - truth[frame, BODY]).astype(np.float64) ** 2).sum(-1)[known]
        similarity = np.exp(-square / (2 * area * SIGMAS[known] ** 2))
        values[frame] = np.where(sure[frame, BODY][known] >= THRESHOLD, similarity, 0).mean()
    return values


def oks_precision(similarity: np.ndarray) -> float:
    """COCO's AP for one person a frame: share of `oks` [F] above each of 0.50 .. 0.95, averaged; nan without any."""
    known = similarity[~np.isnan(similarity)]
    return float((known[:, None] >= OKS_LEVELS).mean()) if known.size else float("nan")
