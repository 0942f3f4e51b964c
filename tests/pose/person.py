"""A standing person with a raised arm, by hand: 134 keypoints for tests."""

import numpy as np

from champ_jax.pose import skeleton as sk

BODY = [
    (0, -1.5), (0, -1), (-0.36, -1), (-0.6, -0.45), (-0.75, 0.05), (0.36, -1), (0.75, -1.35), (1, -1.8), (-0.2, 0),
    (-0.25, 0.85), (-0.3, 1.7), (0.2, 0), (0.35, 0.85), (0.3, 1.7), (-0.07, -1.57), (0.07, -1.57), (-0.16, -1.5), (0.16, -1.5),
]  # fmt: skip
FEET = [(0.45, 1.85), (0.5, 1.8), (0.27, 1.78), (-0.45, 1.85), (-0.5, 1.8), (-0.27, 1.78)]


def person(size=(96, 96)):
    """(keypoints f32 [J,2] px, confidence f32 [J] of ones) of a person who fills 80 % of a frame of `size` (H, W)."""
    points = np.zeros((sk.J, 2))
    points[sk.BODY], points[sk.FEET] = BODY, FEET
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    points[sk.FACE] = points[sk.NOSE] + np.stack([0.17 * np.cos(angle), 0.22 * np.sin(angle)], -1)
    for hand, wrist, heading in ((sk.LEFT_HAND, sk.LEFT_WRIST, -1.0), (sk.RIGHT_HAND, sk.RIGHT_WRIST, 1.9)):
        points[hand] = points[wrist]
        for finger in range(5):
            direction = heading + 0.25 * (finger - 2)
            reach = 0.12 + 0.07 * np.arange(4)
            spread = np.stack([np.cos(direction) * reach, np.sin(direction) * reach], -1)
            points[hand.start + 1 + 4 * finger : hand.start + 5 + 4 * finger] += spread
    height, width = size
    return (points * 0.2 * height + (width / 2, 0.52 * height)).astype(np.float32), np.ones(sk.J, np.float32)


def dance(frames=48, fps=24.0, size=(96, 96), seed=0):
    """(keypoints f32 [F,J,2], confidence f32 [F,J]): the person's bones swinging, each at its own pace."""
    from champ_jax.pose.retarget import _fine, _rebuild

    keypoints, confidence = person(size)
    draw = np.random.default_rng(seed)
    time = np.arange(frames)[:, None] / fps
    vectors, root = sk.bones(keypoints[None]), sk.hips(keypoints[None])
    swing = 0.4 * draw.random(24) * np.sin(2 * np.pi * draw.uniform(0.5, 1.5, 24) * time)
    swing[:, [1, 8, 11]] = 0
    cos, sin = np.cos(swing), np.sin(swing)
    x, y = vectors[..., 0], vectors[..., 1]
    vectors = np.stack([x * cos - y * sin, x * sin + y * cos], -1)
    root = root + 3 * np.sin(2 * np.pi * 0.7 * time) * (1, 0.2)
    moved = _rebuild(vectors, root, _fine(keypoints[None]), dict.fromkeys(sk.CENTRES, 1.0))
    return moved, np.tile(confidence, (frames, 1))
