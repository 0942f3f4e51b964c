"""Judges clips one after the other: a record of each, and what sets are compared by. Memory holds a block of frames, never a video."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from champ_jax.data.estimate.faces import FaceModel
from champ_jax.data.estimate.models import open_estimator, open_faces
from champ_jax.data.estimate.people import Estimator
from champ_jax.data.estimate.tracks import follow
from champ_jax.data.pose_files import write_keypoints
from champ_jax.errors import UserError, did_you_mean
from champ_jax.evaluate.catalogue import DISCO, METRICS, PROTOCOLS, STRICT
from champ_jax.evaluate.clips import Blocks, Clip, Frames, Motion
from champ_jax.evaluate.dances import dance_features, dance_scores, pose_scores
from champ_jax.evaluate.looks import Faces, Looks, embed_anywhere
from champ_jax.evaluate.networks import Networks
from champ_jax.evaluate.quality import Quality
from champ_jax.evaluate.sets import GROUPS, Features, FeatureSets
from champ_jax.evaluate.steadiness import Steadiness
from champ_jax.metrics.disco import resized


@dataclass(frozen=True)
class Judge:
    """How clips are judged. networks: that metrics look through. faces: a model of faces, for identity. estimator: of poses, asked
    for the pose in the generated frames. tracks: a folder that gets those poses, NAME.motion.npz each."""

    protocol: str = STRICT
    networks: Networks = field(default_factory=Networks)
    faces: FaceModel | None = None
    estimator: Estimator | None = None
    estimator_name: str = ""
    tracks: Path | None = None

    def __post_init__(self):
        if self.protocol not in PROTOCOLS:
            raise UserError(f"protocol {self.protocol!r}: expected {' or '.join(PROTOCOLS)}")


@contextlib.contextmanager
def open_judge(
    protocol: str = STRICT, weights: Path | None = None, faces: str = "", estimator: str = "", tracks: Path | None = None
) -> Iterator[Judge]:
    """A judge with its models, by name or path as in `champ-jax prepare`; "" for none. Raises UserError for those that cannot be opened."""
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(open_estimator(estimator)) if estimator else None
        yield Judge(protocol, Networks(weights), open_faces(faces) if faces else None, opened, estimator, tracks)


@dataclass
class Part:
    """What judging some clips gives: records, in order; features of frames by metric; features of dances {kind: {clip: ([D] of
    the generated one, [D] of the true one or None)}}; labels {metric: what it looked through}."""

    records: list[dict[str, Any]] = field(default_factory=list)
    features: dict[str, Features] = field(default_factory=dict)
    dances: dict[str, dict[str, tuple[np.ndarray, np.ndarray | None]]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


def judge_clips(
    clips: Mapping[str, Callable[[], Clip]],
    judge: Judge,
    shard: tuple[int, int] = (0, 1),
    on_progress: Callable[[int, int], None] | None = None,
) -> Part:
    """Judges every `shard[1]`-th clip from number `shard[0]`; parts of all shards merge to what one would have given.

    clips: {name: opens it}, the same for all shards. Raises UserError naming the clip that cannot be judged.
    """
    part, sets = Part(), FeatureSets(judge.networks, judge.protocol)
    mine = list(enumerate(clips.items()))[shard[0] :: shard[1]]
    faces = _photo_faces(clips, judge)
    for done, (number, (name, opens)) in enumerate(mine):
        sets.begin(name, number % GROUPS)
        try:
            _judge_clip(opens(), judge, sets, part, _mean_of_others(faces, name))
        except (UserError, ValueError) as error:  # the latter for sizes that cannot be compared
            raise UserError(f"clip {name}: {error}") from error
        if on_progress is not None:
            on_progress(done + 1, len(mine))
    part.features = sets.features
    return part


def _photo_faces(clips: Mapping[str, Callable[[], Clip]], judge: Judge) -> dict[str, np.ndarray]:
    """{clip: embedding [E] of the face in its photo}, where there is one; of all clips, also those of other shards."""
    found = {}
    for name, opens in clips.items() if judge.faces is not None else ():
        photo = opens().photo
        vector, seen = embed_anywhere(judge.faces.embed, photo) if photo is not None else (None, False)
        if seen:
            found[name] = vector
    return found


def _mean_of_others(faces: dict[str, np.ndarray], name: str) -> np.ndarray | None:
    """[E], on which cosines are centred; None for fewer than two other people."""
    rest = [vector for other, vector in faces.items() if other != name]
    return np.mean(rest, 0) if len(rest) > 1 else None


def _judge_clip(clip: Clip, judge: Judge, sets: FeatureSets, part: Part, centre: np.ndarray | None) -> None:
    """Judges one clip; adds to the sets and the part."""
    record: dict[str, Any] = {"name": clip.name, "frames": 0, "fps": clip.fps, "size": None, "values": {}, "real": {}, "notes": []}
    motion = clip.motion if clip.generated is None else _judge_video(clip, judge, sets, part, centre, record)
    driving = clip.reference_motion
    if driving is None and judge.estimator is not None and clip.reference is not None:
        driving = _estimate(clip.reference, judge.estimator, clip.fps)
    if motion is not None:
        _judge_motion(clip, judge, part, motion, driving, record)
    for name in record["values"]:
        if name not in METRICS:
            raise ValueError(f"there is no metric {name!r}{did_you_mean(name, METRICS)} (champ_jax/evaluate/catalogue.py lists all)")
    part.records.append(record)


def _judge_video(
    clip: Clip, judge: Judge, sets: FeatureSets, part: Part, centre: np.ndarray | None, record: dict[str, Any]
) -> Motion | None:
    """Judges the frames; returns the motion in them: as given, or as the estimator sees it."""
    _check_flow(clip)
    quality = Quality(judge.protocol, judge.networks, clip.scores)
    steady = Steadiness(clip.flow, judge.networks["raft"])
    looks = Looks(judge.networks, clip.photo)
    faces = Faces(judge.faces, clip.photo, centre) if judge.faces is not None and clip.photo is not None else None
    people, count = [], 0
    if judge.estimator is not None:
        judge.estimator.begin()
    blocks = Blocks(clip.generated, clip.reference, clip.mask)
    for generated, reference, mask in blocks:
        if reference is not None:
            if judge.protocol == DISCO:
                generated = resized(generated, reference.shape[1:3])
            _check_sizes(generated, reference)
            quality.add(generated, reference, mask)
            sets.add(generated, reference)
        steady.add(generated, reference)
        looks.add(generated, reference)
        if faces is not None:
            faces.add(generated, _track(clip.motion, clip.fps, count, len(generated)))
        if judge.estimator is not None:
            people += [judge.estimator.estimate(frame) for frame in generated]
        record["size"] = list(generated.shape[1:3])
        count += len(generated)
    if not count:
        raise UserError("it has no frames")
    record["frames"] = count
    if blocks.longer:
        which = " and ".join(("the generated video", "the reference", "the mask")[number] for number in blocks.longer)
        record["notes"].append(f"{which} goes on after frame {count}; what has no partner is not judged")
    record["notes"] += quality.notes()
    record["series"] = quality.series()
    _add(record, quality.values())
    _add(record, *_pairs(steady.values() | looks.values()))
    if "warp_error" in record["values"]:
        part.labels["warp_error"] = f"flow: {steady.source}"
        record["series"] |= steady.series()
    if {"seconds", "frames", "first_frame_seconds"} <= clip.made.keys():
        speed = clip.made["frames"] / clip.made["seconds"]
        _add(record, {"frames_per_second": speed, "first_frame_seconds": clip.made["first_frame_seconds"]})
    if faces is not None:
        found = faces.values()
        _add(record, found)
        part.labels |= dict.fromkeys(found, judge.faces.name)
        if not faces.photo_found:
            record["notes"].append("no face is found in the photo: identity is not judged")
    return clip.motion if judge.estimator is None else _seen_motion(clip, judge, people, record)


def _add(record: dict[str, Any], values: Mapping[str, float], real: Mapping[str, float] | None = None) -> None:
    """Adds to a clip's values, and to those of its reference, what is not nan."""
    for kind, found in (("values", values), ("real", real or {})):
        record[kind] |= {name: value for name, value in found.items() if not np.isnan(value)}


def _pairs(found: Mapping[str, tuple[float, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """(values, values of the reference) of {metric: (of the generated one, of the reference)}."""
    return tuple({name: pair[side] for name, pair in found.items()} for side in (0, 1))


def _seen_motion(clip: Clip, judge: Judge, people: list, record: dict[str, Any]) -> Motion | None:
    """The motion that the estimator sees in the generated frames; left in `judge.tracks`, where that is a folder."""
    motion = _followed(people, clip.fps, tuple(record["size"]))
    if motion is None:
        record["notes"].append("the estimator finds nobody in the generated frames")
    elif judge.tracks is not None:
        judge.tracks.mkdir(parents=True, exist_ok=True)
        path = judge.tracks / f"{clip.name}.motion.npz"
        write_keypoints(path, motion.keypoints, motion.confidence, motion.size, motion.fps)
    return motion


def _check_sizes(generated: np.ndarray, reference: np.ndarray) -> None:
    """Raises UserError for frames that cannot be compared pixel by pixel."""
    if generated.shape[1:] != reference.shape[1:]:
        sizes = [f"{video.shape[1]}x{video.shape[2]}" for video in (generated, reference)]
        raise UserError(f"generated frames are {sizes[0]} and reference frames {sizes[1]}; give --size HxW, to which both are scaled")


def _check_flow(clip: Clip) -> None:
    """Raises UserError for a given flow that is not of the reference's frames."""
    if clip.flow is None or clip.reference is None:
        return
    first = next(clip.reference(), None)
    size = clip.flow.forward.shape[1:3] if first is None else first.shape[:2]
    if clip.flow.forward.shape[1:3] != size:
        height, width = clip.flow.forward.shape[1:3]
        raise UserError(f"its flow is of {height}x{width} pixels, and the reference frames are {size[0]}x{size[1]}")


def _track(motion: Motion | None, fps: float, first: int, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(keypoints [n,J,2], confidence [n,J]) of so many frames, if there is a track at the video's rate that covers them."""
    if motion is None or motion.keypoints is None or abs(motion.fps / fps - 1) > 0.01 or len(motion.keypoints) < first + count:
        return None
    return motion.keypoints[first : first + count], motion.confidence[first : first + count]


def _estimate(frames: Frames, estimator: Estimator, fps: float) -> Motion | None:
    """The motion in a video, as the estimator sees it."""
    estimator.begin()
    people, size = [], (0, 0)
    for frame in frames():
        people.append(estimator.estimate(frame))
        size = frame.shape[:2]
    return _followed(people, fps, size)


def _followed(people: list, fps: float, size: tuple[int, int]) -> Motion | None:
    """The main person of all frames as a motion; None when nobody is ever seen, or for too few frames to move in."""
    cuts = np.zeros(len(people), bool)
    cuts[:1] = True
    # As seen, unsmoothed: jitter of the video is what is to be measured.
    track = follow(people, cuts, size, smooth=False)
    if len(people) < 4 or not track.present.any():
        return None
    return Motion(fps, track.keypoints, track.confidence, size)


def _judge_motion(clip: Clip, judge: Judge, part: Part, motion: Motion, driving: Motion | None, record: dict[str, Any]) -> None:
    """Judges the movement, by itself, to the music, against the driving one."""
    if not record["frames"]:
        count = len(motion.keypoints if motion.positions is None else motion.positions)
        record |= {"frames": count, "fps": motion.fps, "size": list(motion.size) if motion.size else None}
    found, curves = dance_scores(motion, driving, clip.beats)
    _add(record, *_pairs(found))
    if curves:
        record["curves"] = curves
    if judge.estimator is not None and driving is not None:
        poses = pose_scores(motion, driving)
        _add(record, poses)
        part.labels |= {name: f"poses: {judge.estimator_name}" for name in poses}
    true = dance_features(driving, judge.protocol) if driving is not None else {}
    for kind, vector in dance_features(motion, judge.protocol).items():
        part.dances.setdefault(kind, {})[clip.name] = (vector, true.get(kind))
