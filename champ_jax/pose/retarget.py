"""Gives a dance the bones of the photo's person, starts it in the photo's pose and keeps it inside the frame. NumPy, on the host.

After MusePose's pose_align, with its first-frame ratios replaced by percentiles over the clip: a first frame in which an arm points at
the camera would otherwise shorten that arm for good.
"""

import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter1d

from champ_jax.pose import skeleton as sk

LONGEST = 90  # percentile of a bone's length over the clip that counts as its length
RATIO_RANGE = (0.6, 1.6)  # of one bone against the whole body; beyond it a foreshortened photo speaks, not anatomy
HEAD = (0, 14, 15, 16, 17)
FORE_ARMS = {"left_hand": (sk.LEFT_WRIST,), "right_hand": (sk.RIGHT_WRIST,)}
LEGS = (9, 10, 12, 13)
N = sk.FEET.stop
SHIFT_SECONDS = 0.25  # how long before and after it is needed a shift to stay inside the frame sets in


def retarget(
    keypoints: np.ndarray,
    confidence: np.ndarray,
    reference_keypoints: np.ndarray,
    reference_confidence: np.ndarray,
    ratios: np.ndarray | None = None,
) -> np.ndarray:
    """The same movement with the reference's proportions, size and place.

    Every bone keeps its direction and is scaled by the ratio of its length in the reference to its length in the clip, along
    the tree from the hips; the path of the hips starts at the reference's and is scaled with the legs, a hand with its fore-arm, the face
    with the head. Bones that the reference hides take the body's common ratio.

    Args:
        keypoints: [F,J,2] f32 pixels; confidence: [F,J] 0..1.
        reference_keypoints: [J,2] pixels of the picture to dance in; reference_confidence: [J].
        ratios: [24] of the bones' lengths, where more is known of the dance than this clip; else `bone_ratios` of the clip.
    Returns:
        [F,J,2] f32 pixels.
    """
    vectors, root = sk.bones(keypoints), sk.hips(keypoints)
    if ratios is None:
        ratios = bone_ratios(keypoints, confidence, reference_keypoints, reference_confidence)
    hips_known = (reference_confidence[[sk.RIGHT_HIP, sk.LEFT_HIP]] >= sk.THRESHOLD).all()
    start = sk.hips(reference_keypoints) if hips_known else root[0]
    root = start + (root - root[0]) * ratios[list(LEGS)].mean()
    scales = {"face": ratios[list(HEAD)].mean(), **{hand: ratios[list(bone)].mean() for hand, bone in FORE_ARMS.items()}}
    return _rebuild(vectors * ratios[:, None], root, _fine(keypoints), scales)


def bone_ratios(
    keypoints: np.ndarray, confidence: np.ndarray, reference_keypoints: np.ndarray, reference_confidence: np.ndarray
) -> np.ndarray:
    """Length in the reference over length in the clip of each of the 24 bones: [24]; arguments as in `retarget`.

    Left and right count as equally long: the longer of the two is the less foreshortened.
    """
    lengths = np.linalg.norm(sk.bones(keypoints), axis=-1)
    lengths = np.where(sk.bone_confidence(confidence) >= sk.THRESHOLD, lengths, np.nan)
    clip = _symmetric(np.array([np.nanpercentile(bone, LONGEST) if np.isfinite(bone).any() else np.nan for bone in lengths.T]))
    reference = np.linalg.norm(sk.bones(reference_keypoints), axis=-1)
    reference = _symmetric(np.where(sk.bone_confidence(reference_confidence) >= sk.THRESHOLD, reference, np.nan))
    ratios = np.where(clip > 1e-3, reference / np.maximum(clip, 1e-3), np.nan)
    if not np.isfinite(ratios).any():
        return np.ones(N)
    body = np.nanmedian(ratios)
    return np.where(np.isfinite(ratios), body * np.clip(ratios / body, *RATIO_RANGE), body)


def start_from(
    keypoints: np.ndarray, reference_keypoints: np.ndarray, reference_confidence: np.ndarray, fps: float, seconds: float = 1.0
) -> np.ndarray:
    """The dance [F,J,2] px, entered from the reference pose [J,2] px: frame 0 is that pose, from `seconds` on nothing is changed.

    What separates frame 0 from the reference fades along a half cosine: as an angle and a length of each bone, so that limbs
    swing into the dance and do not shrink through it. Joints that the reference [J] hides follow the dance.
    """
    vectors, root = sk.bones(keypoints), sk.hips(keypoints)
    target = sk.bones(reference_keypoints)
    time = np.arange(len(keypoints)) / (seconds * fps)
    fade = np.where(time < 1, 0.5 + 0.5 * np.cos(np.pi * np.minimum(time, 1)), 0.0)
    seen = reference_confidence >= sk.THRESHOLD
    bone_seen = sk.bone_confidence(reference_confidence) >= sk.THRESHOLD
    angle, length = np.arctan2(vectors[..., 1], vectors[..., 0]), np.linalg.norm(vectors, axis=-1)
    turn = np.arctan2(target[:, 1], target[:, 0]) - angle[0]
    turn = np.where(bone_seen, (turn + np.pi) % (2 * np.pi) - np.pi, 0)
    stretch = np.where(bone_seen, np.linalg.norm(target, axis=-1) - length[0], 0)
    angle, length = angle + fade[:, None] * turn, np.maximum(length + fade[:, None] * stretch, 0)
    vectors = np.stack([np.cos(angle), np.sin(angle)], -1) * length[..., None]
    if seen[[sk.RIGHT_HIP, sk.LEFT_HIP]].all():
        root = root + fade[:, None] * (sk.hips(reference_keypoints) - root[0])
    fine, reference_fine = _fine(keypoints), _fine(reference_keypoints)
    for part, centre in sk.CENTRES.items():
        known = (seen[sk.PARTS[part]] & seen[centre])[:, None]
        fine[part] = fine[part] + fade[:, None, None] * np.where(known, reference_fine[part] - fine[part][0], 0)
    return _rebuild(vectors, root, fine, dict.fromkeys(sk.CENTRES, 1.0))


def keep_inside(
    keypoints: np.ndarray,
    confidence: np.ndarray,
    reference_keypoints: np.ndarray,
    reference_confidence: np.ndarray,
    size: tuple[int, int],
    fps: float,
) -> np.ndarray:
    """The dance [F,J,2] px, moved as a whole where body or feet would leave a frame of `size` (H, W).

    The shift is at least what is needed and changes over about half a second. Where the reference pose itself is nearer to the edge than
    the margin, or beyond it, so may the dance be.
    """
    forward, back = (_envelope(needed, fps) for needed in outside(keypoints, confidence, reference_keypoints, reference_confidence, size))
    return (keypoints + (forward - back)[:, None]).astype(np.float32)


def outside(
    keypoints: np.ndarray, confidence: np.ndarray, reference_keypoints: np.ndarray, reference_confidence: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """How far each frame leaves what `keep_inside` allows: pixels [F,2] beyond the low edges and beyond the high ones, 0 inside."""
    shown = confidence[:, :N, None] >= sk.THRESHOLD
    low = np.where(shown, keypoints[:, :N], np.inf).min(1)
    high = np.where(shown, keypoints[:, :N], -np.inf).max(1)
    reference = reference_keypoints[:N][reference_confidence[:N] >= sk.THRESHOLD]
    margin, extent = 0.02 * max(size), np.array([size[1], size[0]], float)
    lowest, highest = np.full(2, margin), extent - margin
    if len(reference):
        lowest, highest = np.minimum(lowest, reference.min(0)), np.maximum(highest, reference.max(0))
    return np.maximum(lowest - low, 0), np.maximum(high - highest, 0)


def _envelope(needed: np.ndarray, fps: float) -> np.ndarray:
    """A smooth curve above `needed` [F,2]: the running maximum, averaged over no more than its own reach."""
    reach = max(1, round(SHIFT_SECONDS * fps))
    widest = maximum_filter1d(needed, 2 * reach + 1, axis=0, mode="nearest")
    return gaussian_filter1d(widest, reach / 3, axis=0, mode="nearest", radius=reach)


def _fine(keypoints: np.ndarray) -> dict[str, np.ndarray]:
    """Face and hands relative to the joint they hang on."""
    return {part: keypoints[..., sk.PARTS[part], :] - keypoints[..., centre, None, :] for part, centre in sk.CENTRES.items()}


def _rebuild(vectors: np.ndarray, root: np.ndarray, fine: dict[str, np.ndarray], scales: dict[str, float]) -> np.ndarray:
    """Keypoints [F,J,2] f32 from bones [F,24,2], hips [F,2] and scaled face and hands."""
    keypoints = np.zeros((len(root), sk.J, 2))
    for joint in sk.TREE_ORDER:
        parent = sk.PARENTS[joint]
        keypoints[:, joint] = vectors[:, joint] + (root if parent == sk.ROOT else keypoints[:, parent])
    for part, centre in sk.CENTRES.items():
        keypoints[:, sk.PARTS[part]] = keypoints[:, centre, None] + scales[part] * fine[part]
    return keypoints.astype(np.float32)


def _symmetric(lengths: np.ndarray) -> np.ndarray:
    """Each of 24 lengths replaced by the longer of itself and its mirror image; NaN is unknown."""
    return np.fmax(lengths, lengths[sk.MIRROR[:N]])
