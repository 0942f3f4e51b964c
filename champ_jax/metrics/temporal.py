"""How steady a video is: warp error, flicker, smoothness of motion, difference of differences, consistency of what it shows.

A frozen video is perfect in most of these, so each is to be read beside the reference video's own value. Frames are u8, or float in
[0,1], [F,H,W,3]; a flow [F-1,H,W,2] holds in pixels (x, y) where each point of a frame is in the next.
"""

import cv2
import numpy as np

from champ_jax.metrics.image import each_frame

# Forward-backward check of Sundaram et al. 2010, as in Lai et al. 2018.
SHARE, SLACK = 0.01, 0.5


def flicker(frames: np.ndarray) -> np.ndarray:
    """VBench's temporal flickering of successive frames [F,H,W,3]: f64 [F-1], 1 - their mean absolute difference; 1 for a still."""
    return each_frame(lambda a, b: 1 - float(np.abs(_unit(a) - _unit(b)).mean(dtype=np.float64)), frames[:-1], frames[1:])


def dtssd(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Difference of differences (Erofeev et al. 2015) of videos [F,H,W,3]: f64 [F-1], 100 times the root mean square, over the
    pixels, of how differently the two change to the next frame."""

    def one(a: np.ndarray, a_next: np.ndarray, b: np.ndarray, b_next: np.ndarray) -> float:
        apart = (_unit(a_next) - _unit(a)) - (_unit(b_next) - _unit(b))
        return 100 * float(np.sqrt(np.mean(apart**2, dtype=np.float64)))

    return each_frame(one, x[:-1], x[1:], y[:-1], y[1:])


def estimate_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """f32 [H,W,2]: where points of the u8 frame [H,W,3] are in the second, by dense inverse search (Kroeger et al. 2016)."""
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*greys, None)


def warp(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """image [H,W,C] seen from where flow f32 [H,W,2] came: f32 [H,W,C], bilinear and exact, 0 beyond the edge."""
    height, width = flow.shape[:2]
    x, y = (np.arange(n, dtype=np.float32) for n in (width, height))
    x, y = x + flow[..., 0], y[:, None] + flow[..., 1]
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right_share, low_share = (x - left)[..., None], (y - top)[..., None]
    image = np.pad(np.asarray(image, np.float32), ((2, 2), (2, 2), (0, 0)))
    left, top = left.clip(-2, width) + 2, top.clip(-2, height) + 2
    upper = image[top, left] * (1 - right_share) + image[top, left + 1] * right_share
    lower = image[top + 1, left] * (1 - right_share) + image[top + 1, left + 1] * right_share
    return upper * (1 - low_share) + lower * low_share


def visible(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """bool [H,W]: which points of a frame are still seen in the next, by flows [H,W,2] there and back that undo each other."""
    returned = warp(backward, forward)
    apart = ((forward + returned) ** 2).sum(-1)
    lengths = (forward**2).sum(-1) + (returned**2).sum(-1)
    return (apart < SHARE * lengths + SLACK) & _inside(forward)


def warp_error(frames: np.ndarray, forward: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Mean squared difference of each of frames [F,H,W,3] and the next one warped back, where it is seen: f64 [F-1]; nan if nowhere.

    forward: f32 [F-1,H,W,2], of the reference video or exact. seen: bool [F-1,H,W], from `visible` or exact.
    """

    def one(frame: np.ndarray, following: np.ndarray, flow: np.ndarray, mask: np.ndarray) -> float:
        mask = mask & _inside(flow)
        apart = (warp(_unit(following), flow) - _unit(frame))[mask]
        return float(np.mean(apart**2, dtype=np.float64)) if apart.size else np.nan

    return each_frame(one, frames[:-1], frames[1:], forward, seen)


def smoothness(frames: np.ndarray) -> np.ndarray:
    """How well each frame lies between its neighbours: f64 [F-2] in [0,1] of u8 frames [F,H,W,3].

    1 - mean absolute difference of a frame and the mean of both neighbours, each warped half way along the flow to it. VBench's motion
    smoothness asks a network for the frame between; this asks dense inverse search, and is to be compared with the reference's value.
    """

    def one(before: np.ndarray, frame: np.ndarray, after: np.ndarray) -> float:
        warped = [warp(_unit(other), estimate_flow(frame, other)) for other in (before, after)]
        edge = max(2, min(frame.shape[:2]) // 16)
        apart = np.abs((warped[0] + warped[1]) / 2 - _unit(frame))[edge:-edge, edge:-edge]
        return 1 - float(apart.mean(dtype=np.float64))

    return each_frame(one, frames[:-2], frames[1:-1], frames[2:])


def scores(frames: np.ndarray) -> dict[str, np.ndarray]:
    """{metric: f64 [F-1]} of each of frames u8 [F,H,W,3], F >= 2, and the next one."""
    return {"flicker": flicker(frames)}


def scores_between(frames: np.ndarray) -> dict[str, np.ndarray]:
    """{metric: f64 [F-2]} of each of frames u8 [F,H,W,3], F >= 3, between its neighbours."""
    return {"motion_smoothness": smoothness(frames)}


def scores_along(frames: np.ndarray, forward: np.ndarray, seen: np.ndarray) -> dict[str, np.ndarray]:
    """{metric: f64 [F-1]} of each of frames u8 [F,H,W,3] and the next one along a flow [F-1,H,W,2], where `seen` bool [F-1,H,W]."""
    return {"warp_error": warp_error(frames, forward, seen)}


def scores_against(truth: np.ndarray, generated: np.ndarray) -> dict[str, np.ndarray]:
    """{metric: f64 [F-1]} of how generated frames u8 [F,H,W,3] change to the next one, against how the true ones do."""
    return {"dtssd": dtssd(truth, generated)}


def adjacent_consistency(features: np.ndarray) -> np.ndarray:
    """Cosine of the features [F,D] of successive frames: f64 [F-1]."""
    unit = _unit_length(features)
    return (unit[1:] * unit[:-1]).sum(-1)


def subject_consistency(features: np.ndarray, first: np.ndarray) -> np.ndarray:
    """VBench's subject consistency: f64 [F-1], the mean of each frame's cosines, not below 0, to the one before and to the first.

    features: [F,D] of successive frames, DINO's for a subject and CLIP's for a background. first: [D], of the video's first frame.
    """
    unit, first = _unit_length(features), _unit_length(first)
    before, start = (unit[1:] * unit[:-1]).sum(-1), unit[1:] @ first
    return (np.maximum(before, 0) + np.maximum(start, 0)) / 2


def _unit_length(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def _inside(flow: np.ndarray) -> np.ndarray:
    """bool [H,W]: which points a flow leaves inside the frame."""
    height, width = flow.shape[:2]
    x, y = np.arange(width) + flow[..., 0], np.arange(height)[:, None] + flow[..., 1]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _unit(frame: np.ndarray) -> np.ndarray:
    return frame.astype(np.float32) / np.float32(255) if frame.dtype == np.uint8 else np.asarray(frame, np.float32)
