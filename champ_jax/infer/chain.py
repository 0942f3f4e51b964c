"""A dance of any length from windows of one length, and which of its poses a video shows. NumPy alone: exported models run it where
there is no JAX."""

import math

import numpy as np

from champ_jax.diffusion.windows import windows
from champ_jax.errors import UserError
from champ_jax.pose import skeleton as sk
from champ_jax.pose.retarget import keep_inside, retarget, start_from


def fitted_dance(run, music, photo_keypoints, photo_confidence, size, fps, window) -> tuple[np.ndarray, ...]:
    """As `chain_windows`, each window from the middle of the last, fitted to the photo's person: the dance has the photo's bones,
    starts in its pose [J,2] px and stays inside a frame of `size` (H, W). fps: of the music's frames.

    Raises UserError for a photo without shoulders.
    """
    check_shoulders(photo_confidence)
    photo = photo_keypoints, photo_confidence
    keypoints, confidence, *more = chain_windows(run, music, *photo, window, max(window // 2, 1))
    keypoints = start_from(retarget(keypoints, confidence, *photo), *photo, fps)
    return keep_inside(keypoints, confidence, *photo, size, fps), confidence, *more


def check_shoulders(confidence: np.ndarray) -> None:
    """Raises UserError for a photo's pose, confidence [J], that no dance can be fitted to."""
    if not (confidence[[sk.NECK, sk.RIGHT_SHOULDER, sk.LEFT_SHOULDER]] >= sk.THRESHOLD).all():
        raise UserError("the photo's pose shows no shoulders: give a photo of the upper body at least, with its pose")


def poses_shown(seconds: float, fps: float, motion_fps: float, poses: int) -> np.ndarray:
    """Which of `poses` at motion_fps each frame of a video at fps shows, int [F]; F = the whole frames in `seconds`, at least 1."""
    count = max(1, math.floor(seconds * fps + 1e-6))
    index = np.round(np.arange(count) * motion_fps / fps).astype(int)
    return np.minimum(index, poses - 1)


def chain_windows(run, music, reference_keypoints, reference_confidence, window, hop) -> tuple[np.ndarray, ...]:
    """Runs `run(music [window,Dm], pose [J,2], confidence [J]) -> (keypoints [window,J,2], confidence [window,J], ...)` along the music.

    Returns each of them for all F frames: weighted means over the windows, which follow each other `hop` frames apart; each starts in
    the pose that the dance so far has at its first frame. Of music shorter than a window the last frame stays: M2P has seen whole
    windows only, and is compiled for one.
    A window's weight is a half sine wave squared: unlike triangles it has no corners, which would show as jerks.
    """
    count = max(len(music), window)
    frames = windows(count, window, window - hop)
    totals: list[np.ndarray] = []
    weight = np.zeros(count)
    start = reference_keypoints, reference_confidence
    share = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
    for index in frames:
        if index[0] > 0:
            start = tuple(total[index[0]] / weight[index[0]] for total in totals[:2])
        found = run(music[np.minimum(index, len(music) - 1)], *start)
        totals = totals or [np.zeros((count, *array.shape[1:])) for array in found]
        for total, array in zip(totals, found, strict=True):
            total[index] += _along(share, array) * array
        weight[index] += share
    return tuple((total / _along(weight, total))[: len(music)].astype(np.float32) for total in totals)


def _along(values: np.ndarray, array: np.ndarray) -> np.ndarray:
    """values [F] in the shape in which they multiply the frames of `array` [F,...]."""
    return values.reshape(-1, *(1,) * (array.ndim - 1))
