"""One training sample from one clip: which frames, through which View, as the arrays a batch is made of."""

import dataclasses
from typing import Any

import numpy as np

from champ_jax.data import transforms
from champ_jax.data.clip import Clip
from champ_jax.data.encoded import Encoded
from champ_jax.data.music import rows_at
from champ_jax.errors import UserError
from champ_jax.pose.draw import draw
from champ_jax.pose.skeleton import BODY, NECK, THRESHOLD

Sample = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SampleSpec:
    """What a sample holds.

    stage: "A" windows of `frames` motion frames; "B" `frames` separate stored frames that share one reference;
    "C" `frames` stored frames, every `stride`-th. size: (H, W). kinds: guidance kinds. motion_frames: length of the
    music window that a "B" sample brings along under "motion" (0: none). augment: None for frames as they are.
    music_dim, face_dim: widths, also for clips that have no music or face vectors. references: photos of the person in a "B"
    or "C" sample; with a draw, one up to so many of them count.
    """

    stage: str
    frames: int
    stride: int
    size: tuple[int, int]
    kinds: tuple[str, ...]
    motion_frames: int
    music_dim: int
    face_dim: int
    augment: transforms.Augment | None
    references: int = 1

    @property
    def span(self) -> int:
        """Motion frames (stage A) or stored frames (B: targets and references; C: the stretch) that a clip must have."""
        return {"A": self.frames, "B": self.frames + self.references, "C": (self.frames - 1) * self.stride + 1}[self.stage]


def make_sample(clip: Clip, slot: int, slots: int, spec: SampleSpec, rng: np.random.Generator | None, encoded: Encoded | None) -> Sample:
    """The sample of part `slot` of `slots` of a clip; with `rng`, of a random part, through a random View.

    encoded: what the frozen encoders make of all stored frames, to be given in place of pixels.
    Returns a batch's entries without the leading B (make_loader lists them).
    """
    view = transforms.fit(clip.size, spec.size, clip.person_box)
    if rng is not None and spec.augment is not None:
        pairs = clip["semantic_mirror"]
        may_mirror = "semantic_map" not in spec.kinds or len(pairs) > 0
        view = transforms.vary(view, clip.person_box, spec.augment, may_mirror, rng)
    if spec.stage == "A":
        start = _start(clip.n_frames - spec.frames, slot, slots, rng)
        return _window(clip, np.arange(start, start + spec.frames), view, spec)
    motion_frames = None
    if spec.stage == "C":
        targets = _start(clip.stored - spec.span, slot, slots, rng) + np.arange(spec.frames) * spec.stride
    elif spec.motion_frames:
        targets, motion_frames = _targets_in_window(clip, slot, slots, spec, rng)
    elif rng is None:
        others = np.delete(np.arange(clip.stored), clip["reference_index"])
        targets = others[slot * spec.frames :][: spec.frames]
    else:
        targets = np.sort(rng.choice(clip.stored, spec.frames, replace=False))
    references = _references(clip, targets, spec, rng)
    sample = _frames(clip, targets, references, view, spec) | {"reference_weight": _weights(spec.references, rng)}
    colours = transforms.draw_colours(spec.augment, rng) if rng is not None and spec.augment is not None else None
    sample |= _pixels(clip, targets, references, view, colours) if encoded is None else _rows(clip, targets, references, encoded)
    if motion_frames is not None:
        sample["motion"] = _window(clip, motion_frames, view, spec)
        sample["motion"]["index"] = (clip["frame_index"][targets] - motion_frames[0]).astype(np.int32)
    return sample


def _start(room: int, slot: int, slots: int, rng: np.random.Generator | None) -> int:
    """Start of a window that can begin at 0..room: random, or the slot's even share."""
    if rng is not None:
        return int(rng.integers(room + 1))
    return round(room * slot / max(slots - 1, 1))


def _targets_in_window(clip: Clip, slot: int, slots: int, spec: SampleSpec, rng: np.random.Generator | None):
    """(targets [F] among stored frames, motion frames of a window that contains them)."""
    index = clip["frame_index"]
    choices = np.arange(clip.stored)
    if rng is None:
        choices = np.delete(choices, clip["reference_index"])
    first = _start(len(choices) - spec.frames, slot, slots, rng)
    targets = choices[first : first + spec.frames]
    low = max(0, int(index[targets[-1]]) - spec.motion_frames + 1)
    high = min(int(index[targets[0]]), clip.n_frames - spec.motion_frames)
    start = int(rng.integers(low, high + 1)) if rng is not None and high > low else max(min(low, high), 0)
    inside = np.flatnonzero((index >= start) & (index < start + spec.motion_frames))
    if len(inside) < spec.frames:
        raise UserError(f"{clip.where}: {spec.motion_frames} motion frames hold only {len(inside)} stored frames, but "
                        f"{spec.frames} targets are asked for. Raise motion_frames or lower frames.")  # fmt: skip
    if rng is not None:
        targets = np.sort(rng.choice(inside, spec.frames, replace=False))
    return targets, np.arange(start, start + spec.motion_frames)


def _references(clip: Clip, targets: np.ndarray, spec: SampleSpec, rng: np.random.Generator | None) -> np.ndarray:
    """Stored frames [R] to serve as photos; in stage B never a target itself, which could simply be copied.

    The first is any, or without a draw the clip's own; each further one is of the pose that is least like those before.
    """
    choices = np.arange(clip.stored)
    if spec.stage == "B":
        choices = np.delete(choices, targets)
    first = int(clip["reference_index"]) if rng is None else int(rng.choice(choices))
    return spread(clip, choices, first, spec.references)


def spread(clip: Clip, choices: np.ndarray, first: int, count: int) -> np.ndarray:
    """Stored frames [count]: `first`, then of the stored frames `choices` [n] each time the pose least like those before."""
    if count == 1:
        return np.array([first])
    poses = _comparable(*clip.keypoints(clip["frame_index"][choices]))
    chosen = [first]
    nearest = np.linalg.norm(poses - _comparable(*clip.keypoints(clip["frame_index"][[first]])), axis=-1)
    while len(chosen) < count:
        number = int(nearest.argmax())
        chosen.append(int(choices[number]))
        nearest = np.minimum(nearest, np.linalg.norm(poses - poses[number], axis=-1))
    return np.array(chosen)


def _comparable(keypoints: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Bodies [N,J,2] of one clip as vectors [N,D]: pixels from the neck, with 0 for what is not seen."""
    points = keypoints - keypoints[:, [NECK]]
    return np.where(confidence[..., None] >= THRESHOLD, points, 0)[:, BODY].reshape(len(points), -1)


def _weights(references: int, rng: np.random.Generator | None) -> np.ndarray:
    """float32 [R]: 1 for the references that count, a drawn number of them, or all without a draw."""
    count = references if rng is None or references == 1 else int(rng.integers(1, references + 1))
    return (np.arange(references) < count).astype(np.float32)


def _window(clip: Clip, frames: np.ndarray, view: transforms.View, spec: SampleSpec) -> Sample:
    """A stage A sample, of consecutive motion frames. The reference is the first: the dance starts in its pose."""
    return _motion(clip, frames, int(frames[0]), view, spec)


def _frames(clip: Clip, targets: np.ndarray, references: np.ndarray, view: transforms.View, spec: SampleSpec) -> Sample:
    """Everything of a stage B or C sample but the photos: motion, guidance, masks."""
    motion = clip["frame_index"][targets]
    sample = _motion(clip, motion, int(clip["frame_index"][references[0]]), view, spec)
    keypoints, confidence = view.points(*clip.keypoints(clip["frame_index"][references]))
    boxes = clip["face_box"]
    face_box = view.boxes(boxes[motion]) if len(boxes) else np.zeros((len(targets), 4), np.float32)
    guidance = {kind: _guidance(clip, kind, targets, sample, view) for kind in spec.kinds}
    person = np.stack([view.mask(clip.mask(number)) for number in targets])
    return sample | {
        "face_box": face_box,
        "guidance": guidance,
        "mask": person,
        "reference_keypoints": keypoints,
        "reference_confidence": confidence,
        "reference_pose": np.stack([draw(points, sure, view.size) for points, sure in zip(keypoints, confidence)]),
    }


def _motion(clip: Clip, frames: np.ndarray, reference: int, view: transforms.View, spec: SampleSpec) -> Sample:
    """Keypoints and face vectors of motion frames and of a reference motion frame, and the music of the former."""
    keypoints, confidence = view.points(*clip.keypoints(frames))
    reference_keypoints, reference_confidence = view.points(*clip.keypoints(np.array([reference])))
    face, valid = _face(clip, frames, spec.face_dim)
    music, mask = _music(clip, frames, spec)
    return {
        "keypoints": keypoints,
        "confidence": confidence,
        "reference_keypoints": reference_keypoints[0],
        "reference_confidence": reference_confidence[0],
        "face": face,
        "face_valid": valid,
        "reference_face": _reference_face(clip, reference, spec.face_dim),
        "music": music,
        "music_mask": mask,
        "seconds": clip.seconds(frames).astype(np.float32),
        "identity": np.int32(clip["identity_id"]),
    }


def _face(clip: Clip, frames: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [F,E] face vectors, float32 [F] validity)."""
    if not len(clip["face_emb"]) or not len(clip["face_valid"]):
        return np.zeros((len(frames), width), np.float32), np.zeros(len(frames), np.float32)
    return clip["face_emb"][frames].astype(np.float32), (clip["face_valid"][frames] > 0).astype(np.float32)


def _reference_face(clip: Clip, reference: int, width: int) -> np.ndarray:
    """float32 [E]: the reference frame's face vector, or where its face is unseen, the clip's mean; zeros without any."""
    face, valid = _face(clip, np.array([reference]), width)
    if valid[0]:
        return face[0]
    faces, valid = _face(clip, np.arange(clip.n_frames), width)
    mean = (faces * valid[:, None]).sum(0)
    return mean / max(float(np.linalg.norm(mean)), 1e-6)


def _music(clip: Clip, frames: np.ndarray, spec: SampleSpec) -> tuple[np.ndarray, np.float32]:
    """(float32 [F,Dm] rows of the clip's music at the frames' times, 1 if there is music)."""
    if not len(clip["music"]):
        return np.zeros((len(frames), spec.music_dim), np.float32), np.float32(0)
    seconds = clip.seconds(frames) - clip["audio_offset_s"]
    rows = rows_at(clip["music"], clip["music_fps"], seconds, clip.frame_seconds, clip["music_spec"])
    return rows, np.float32(1)


def _guidance(clip: Clip, kind: str, targets: np.ndarray, pose: Sample, view: transforms.View) -> np.ndarray:
    """uint8 [F,H,W,3]: a guidance kind's maps of the target frames. The skeleton is drawn, the others are stored."""
    if kind == "dwpose":
        drawn = zip(pose["keypoints"], pose["confidence"])
        return np.stack([draw(keypoints, confidence, view.size) for keypoints, confidence in drawn])
    if kind == "semantic_map":
        pairs = clip["semantic_mirror"]
        return np.stack([view.semantic_map(clip.image(kind, number), pairs) for number in targets])
    change = view.normal if kind == "normal" else view.map
    return np.stack([change(clip.image(kind, number)) for number in targets])


def _pixels(clip: Clip, targets: np.ndarray, references: np.ndarray, view: transforms.View, colours) -> Sample:
    """The photos: target frames and references, with the same change of colours."""
    photos = lambda numbers: np.stack(  # noqa: E731
        [transforms.recolour(view.photo(clip.image("frames", number)), colours) for number in numbers]
    )
    return {"video": photos(targets), "reference": photos(references)}


def _rows(clip: Clip, targets: np.ndarray, references: np.ndarray, encoded: Encoded) -> Sample:
    """What stands for the photos: rows of the encoder cache."""
    rows = encoded[clip.clip_id]
    moments = rows["moments"]
    if np.isnan([moments[frame].flat[0] for frame in (*targets, *references)]).any():
        raise UserError(f"{clip.where}: a frame could not be read when it was encoded. Delete the encoder cache once it can.")
    sample = {"moments": moments[targets], "reference_moments": moments[references]}
    return sample | ({"reference_token": rows["token"][references]} if "token" in rows else {})
