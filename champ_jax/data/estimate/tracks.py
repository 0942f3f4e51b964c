"""One person through a video: who it is in every frame, smoothed without lag; where nobody is found, nothing is invented."""

import dataclasses

import numpy as np
from scipy.optimize import linear_sum_assignment

from champ_jax.data.estimate.people import People, boxes_of
from champ_jax.pose.skeleton import BODY, THRESHOLD, J

LOST_FRAMES = 15
"""A person who was away for longer is a new one."""
FAR = 0.6
"""Of a box's diagonal: somebody further from where a person was is another one."""
REACH = 2
"""Frames on either side that smoothing looks at."""


@dataclasses.dataclass(frozen=True)
class Track:
    """keypoints f32 [T,134,2] pixels, confidence f32 [T,134], 0 where the person is not found; present bool [T]; boxes f32 [T,4];
    shots i32 [T], the number of the shot that a frame is in."""

    keypoints: np.ndarray
    confidence: np.ndarray
    present: np.ndarray
    boxes: np.ndarray
    shots: np.ndarray


def follow(people: list[People], cuts: np.ndarray, size: tuple[int, int], person: int = 0, smooth: bool = True) -> Track:
    """The main person of each shot.

    Args:
      people: who was found in each frame. cuts: bool [T], where shots begin. size: (H, W) of the frames.
      person: 0 for the most prominent of a shot, 1 for the next, and so on. smooth: with less jitter, see `smoothed`.
    """
    count = len(people)
    keypoints, confidence = np.zeros((count, J, 2), np.float32), np.zeros((count, J), np.float32)
    present = np.zeros(count, bool)
    shots = np.cumsum(cuts).astype(np.int32) - 1
    for shot in range(int(shots.max(initial=-1)) + 1):
        frames = np.flatnonzero(shots == shot)
        tracks = _link([people[frame] for frame in frames])
        ranked = sorted(tracks, key=lambda track: -_prominence(track, [people[frame] for frame in frames], size))
        if len(ranked) <= person:
            continue
        for place, number in ranked[person].items():
            frame = frames[place]
            keypoints[frame], confidence[frame] = people[frame].keypoints[number], people[frame].confidence[number]
            present[frame] = True
        if smooth:
            keypoints[frames] = smoothed(keypoints[frames], confidence[frames])
    return Track(keypoints, confidence, present, boxes_of(keypoints, confidence, THRESHOLD), shots)


def _link(people: list[People]) -> list[dict[int, int]]:
    """The persons of a shot: {frame: number in that frame} of each, those in consecutive frames matched by where they are."""
    tracks: list[dict[int, int]] = []
    last: list[tuple[int, np.ndarray]] = []  # of each track: frame, box
    for frame, found in enumerate(people):
        recent = [number for number, (seen, _) in enumerate(last) if frame - seen <= LOST_FRAMES]
        cost = np.array([[_distance(last[number][1], box) for box in found.boxes] for number in recent]).reshape(
            len(recent), len(found.boxes)
        )
        taken = set()
        for row, column in zip(*linear_sum_assignment(cost)):
            if cost[row, column] < FAR:
                tracks[recent[row]][frame] = int(column)
                last[recent[row]] = frame, found.boxes[column]
                taken.add(int(column))
        for column in set(range(len(found.boxes))) - taken:
            tracks.append({frame: column})
            last.append((frame, found.boxes[column]))
    return tracks


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Between the corners of two boxes, as a share of the larger one's diagonal."""
    diagonal = max(np.hypot(*(box[2:] - box[:2])) for box in (one, other))
    return float(np.abs(one - other).mean() / max(diagonal, 1.0) * 2)


def _prominence(track: dict[int, int], people: list[People], size: tuple[int, int]) -> float:
    """How much of the shot, and how near to its middle, a person takes."""
    height, width = size
    total = 0.0
    for frame, number in track.items():
        x0, y0, x1, y1 = people[frame].boxes[number]
        aside = abs((x0 + x1) / 2 - width / 2) / (width / 2)
        total += (y1 - y0) / height * (1 - 0.5 * min(aside, 1.0))
    return total / max(len(people), 1)


def smoothed(keypoints: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Keypoints f32 [T,J,2] with less jitter: a parabola through `REACH` frames on either side of each, weighted by confidence [T,J].

    Symmetric in time, so nothing lags; where a joint jumps further than its neighbours' scatter explains, it is left as it is, so accents
    stay sharp. Joints below the threshold neither move nor count.
    """
    weights = np.where(confidence >= THRESHOLD, confidence, 0.0).astype(np.float64)
    offsets = np.arange(-REACH, REACH + 1)
    count = len(keypoints)
    if count < len(offsets):
        return keypoints
    places = np.arange(count)[:, None] + offsets
    inside = (places >= 0) & (places < count)
    places = places.clip(0, count - 1)
    w = weights[places] * inside[..., None]  # [T,K,J]
    basis = np.stack([offsets**0, offsets, offsets**2], -1).astype(np.float64)  # [K,3]
    matrix = np.einsum("tkj,ka,kb->tjab", w, basis, basis) + 1e-9 * np.eye(3)
    values = np.einsum("tkj,ka,tkjc->tjac", w, basis, keypoints[places].astype(np.float64))
    fitted = np.linalg.solve(matrix, values)[:, :, 0].astype(np.float32)
    residual = np.sqrt(
        np.einsum("tkj,tkj->tj", w, _squared_residuals(keypoints[places], matrix, values, basis)) / np.maximum(w.sum(1), 1e-9)
    )
    usual = np.median(np.where(weights > 0, residual, np.nan)[weights.max(1) > 0], axis=0) if (weights > 0).any() else 0.0
    enough = ((w > 0).sum(1) >= 4) & (weights > 0) & (residual <= 3.0 * np.nan_to_num(usual) + 1e-3)
    return np.where(enough[..., None], fitted, keypoints)


def _squared_residuals(points: np.ndarray, matrix: np.ndarray, values: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """[T,K,J]: how far each neighbour lies from the parabola, squared."""
    fit = np.einsum("ka,tjac->tkjc", basis, np.linalg.solve(matrix, values))
    return ((points - fit) ** 2).sum(-1)


def share_of_body(confidence: np.ndarray) -> np.ndarray:
    """f32 [T]: the share of the 18 body points that are seen."""
    return (confidence[:, BODY] >= THRESHOLD).mean(1)
