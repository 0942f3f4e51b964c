"""Clips of people, motion and cameras kept out of training: read as the model needs them, animated and scored."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from champ_jax.data import transforms
from champ_jax.data.clip import Clip
from champ_jax.data.records import Records, open_records
from champ_jax.data.samples import SampleSpec, make_sample, spread
from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.errors import UserError
from champ_jax.evaluate.clips import Clip as Judged
from champ_jax.evaluate.clips import Flow, Motion, frames_of
from champ_jax.evaluate.dances import dance_scores
from champ_jax.evaluate.judge import Judge, judge_clips
from champ_jax.evaluate.summary import summarise
from champ_jax.evaluate.who import IdentityJudge
from champ_jax.infer.pipeline import Pipeline

GALLERY = 8  # people among whom identity_top1 chooses
ENLARGED = 2  # times, in contact sheets


@dataclass(frozen=True)
class TruthClip:
    """A clip as it really is. F frames.

    frames: u8 [F,H,W,3]. mask: u8 [F,H,W], 1 on the person. semantic_map: u8 [F,H,W,3], one colour a body part.
    photo: u8 [H,W,3] and photo_map: u8 [H,W,3], the reference and its semantic map. identity: whose clip it is.
    """

    frames: np.ndarray
    mask: np.ndarray
    semantic_map: np.ndarray
    photo: np.ndarray
    photo_map: np.ndarray
    identity: int


@dataclass(frozen=True)
class HeldOutClip:
    """One test clip: the truth, and the maps {kind: u8 [F,H,W,3]} that describe its motion.

    photos: of the person, u8 [R,H,W,3], the truth's first. poses: of each photo, (keypoints [J,2] pixels, confidence [J]).
    face: the face's embedding f32 [E], zeros where there is none. flow: exact, where the clip has it at this size.
    """

    truth: TruthClip
    guidance: dict[str, np.ndarray]
    photos: np.ndarray
    poses: list[tuple[np.ndarray, np.ndarray]]
    face: np.ndarray
    flow: Flow | None
    fps: float


def read_clip(clip: Clip, size: tuple[int, int], frames: int, photos: np.ndarray | None = None) -> HeldOutClip:
    """The first `frames` stored frames of a clip at `size` (height, width), seen exactly as training would.

    photos: stored frames [R] that serve as photos; by default the clip's own reference.
    """
    frames = min(frames, clip.stored)
    photos = np.array([clip["reference_index"]]) if photos is None else photos
    face_dim = clip["face_emb"].shape[-1] if len(clip["face_emb"]) else 0
    spec = SampleSpec("C", frames, 1, size, GUIDANCE_KINDS, motion_frames=0, music_dim=0, face_dim=face_dim, augment=None)
    sample = make_sample(clip, 0, 1, spec, None, None)
    view = transforms.fit(clip.size, size, clip.person_box)
    keypoints, confidence = view.points(*clip.keypoints(clip["frame_index"][photos]))
    images = np.stack([view.photo(clip.image("frames", number)) for number in photos])
    truth = TruthClip(
        frames=sample["video"],
        mask=sample["mask"],
        semantic_map=np.stack([_semantic_map(clip, number, size) for number in range(frames)]),
        photo=images[0],
        photo_map=_semantic_map(clip, int(photos[0]), size),
        identity=int(clip["identity_id"]),
    )
    step = float(np.median(np.diff(clip["frame_index"]))) if clip.stored > 1 else 1.0
    poses, fps = list(zip(keypoints, confidence)), 1 / (clip.frame_seconds * step)
    return HeldOutClip(truth, sample["guidance"], images, poses, sample["reference_face"], _flow(clip, truth), fps)


def photos_after(clip: Clip, first: int, count: int) -> np.ndarray:
    """Stored frames [count] from number `first` on: the one that shows most of the person, then those of other poses.

    Raises UserError for a clip that has too few.
    """
    if clip.stored < first + count:
        raise UserError(f"{clip.where}: {clip.stored} stored frames, and {count} photos after frame {first} are asked for")
    choices = np.arange(first, clip.stored)
    _, confidence = clip.keypoints(clip["frame_index"][choices])
    return spread(clip, choices, int(choices[confidence.mean(-1).argmax()]), count)


def _flow(clip: Clip, truth: TruthClip) -> Flow | None:
    """The clip's own flow, at its own size; a point is seen where the next frame shows the same part of the body there."""
    if len(truth.frames) < 2 or not len(clip["flow"]) or clip.size != truth.frames.shape[1:3]:
        return None
    forward = np.stack([clip.flow(number) for number in range(len(truth.frames) - 1)])
    rows, columns = np.indices(clip.size)
    seen = []
    for flow, here, there in zip(forward, truth.semantic_map[:-1], truth.semantic_map[1:]):
        x, y = (np.rint(place).astype(int) for place in (columns + flow[..., 0], rows + flow[..., 1]))
        height, width = clip.size
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        seen.append(inside & (there[y.clip(0, height - 1), x.clip(0, width - 1)] == here).all(-1))
    return Flow(forward, np.stack(seen))


def _semantic_map(clip: Clip, number: int, size: tuple[int, int]) -> np.ndarray:
    view = transforms.fit(clip.size, size, clip.person_box)
    return view.semantic_map(clip.image("semantic_map", number), clip["semantic_mirror"])


def make_judge(directory: str | os.PathLike, size: tuple[int, int]) -> IdentityJudge:
    """A judge over all people of the test split and as many of the train split as make `GALLERY` altogether."""
    photos: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for split in ("test", "train"):
        records = open_records(directory, split)
        for number, info in enumerate(records.infos):
            if info.stored and info.identity_id not in photos and (split == "test" or len(photos) < GALLERY):
                truth = read_clip(records[number], size, 1).truth
                photos[info.identity_id] = (truth.photo, truth.photo_map)
    if len(photos) < 2:
        raise UserError(f"{directory}: {len(photos)} people in its splits test and train; telling them apart takes two")
    images, maps = (np.stack(x) for x in zip(*photos.values(), strict=True))
    return IdentityJudge(images, maps, list(photos))


def animate_clips(
    pipe: Pipeline, clips: list[HeldOutClip], on_progress: Callable[[int, int], None] | None = None, photos: int = 1
) -> list[np.ndarray]:
    """u8 [F,H,W,3] for each clip: so many of its photos, animated by those of its maps that the model knows."""
    outputs = []
    for number, clip in enumerate(clips):
        guidance = {kind: clip.guidance[kind] for kind in pipe.kinds if kind in clip.guidance}

        def report(done: int, total: int, number: int = number) -> None:
            if on_progress is not None:
                on_progress(number * total + done, len(clips) * total)

        who = {"pose": clip.poses[:photos], "face": clip.face if pipe.config.face_id else None}
        video = pipe.animate(list(clip.photos[:photos]), guidance, **who, size=clip.truth.photo.shape[:2], on_progress=report)
        outputs.append(video.frames)
    return outputs


def judged(outputs: list[np.ndarray], clips: list[HeldOutClip], people: IdentityJudge) -> dict[str, Callable[[], Judged]]:
    """{person: opens the clip} of outputs u8 [F,H,W,3], one for each clip, beside the truth, as `judge_clips` takes them."""

    def open_one(output: np.ndarray, clip: HeldOutClip, name: str) -> Judged:
        truth = clip.truth

        def scores(frames: np.ndarray, first: int) -> dict[str, np.ndarray]:
            maps = truth.semantic_map[first : first + len(frames)]
            return {
                "identity_top1": people.right(frames, maps, truth.identity).astype(np.float64),
                "style_colours": people.apart(frames, maps, truth.identity),
            }

        streams = (frames_of(output), frames_of(truth.frames), truth.photo, frames_of(truth.mask))
        return Judged(name, clip.fps, *streams, scores=scores, flow=clip.flow)

    names = [f"person_{clip.truth.identity}" for clip in clips]
    return {name: lambda o=o, c=c, name=name: open_one(o, c, name) for name, o, c in zip(names, outputs, clips, strict=True)}


def score_outputs(outputs: Mapping[str, list[np.ndarray]], clips: list[HeldOutClip], people: IdentityJudge) -> dict[str, dict[str, Any]]:
    """Results of each named list of outputs (one [F,H,W,3] a clip), as `champ-jax evaluate` writes them."""
    judge = Judge()
    return {name: summarise(judge_clips(judged(videos, clips, people), judge), judge) for name, videos in outputs.items()}


def copies(clips: list[HeldOutClip]) -> list[np.ndarray]:
    """Each clip's photo standing still, [F,H,W,3]: what any model has to beat."""
    return [np.broadcast_to(clip.truth.photo, clip.truth.frames.shape) for clip in clips]


def score_dance(metadata: Mapping, beats: np.ndarray, records: Records) -> dict[str, float]:
    """The scores of a dance to the music's beats, f64 [n] seconds, and energy_ratio, its energy over the mean of the data's.

    metadata: of `Pipeline.dance`. records: motion of the data.
    """
    energies = []
    for number in range(len(records)):
        clip = records[number]
        keypoints, confidence = clip.keypoints(np.arange(clip.n_frames))
        energies.append(dance_scores(Motion(1 / clip.frame_seconds, keypoints, confidence), None, None)[0]["energy"][0])
    dance = Motion(metadata["motion_fps"], metadata["keypoints"], metadata["confidence"])
    scores = {name: value for name, (value, _) in dance_scores(dance, None, beats)[0].items()}
    return scores | {"energy_ratio": scores["energy"] / float(np.mean(energies))}


def contact_sheet(columns: list[list[np.ndarray]], picks: int) -> np.ndarray:
    """One picture u8: a row for each of `picks` frames of each clip, a column for each of `columns`, lists of videos."""
    rows = []
    for videos in zip(*columns, strict=True):
        for frame in np.linspace(0, len(videos[0]) - 1, picks).round().astype(int):
            rows.append(np.concatenate([video[frame] for video in videos], 1))
    return np.concatenate(rows).repeat(ENLARGED, 0).repeat(ENLARGED, 1)


def held_out_song(folder: Path) -> tuple[Path, np.ndarray]:
    """The song file whose json says "held_out", and its beats in seconds; UserError when there is none."""
    import json

    for facts in sorted(folder.glob("*.json")):
        values = json.loads(facts.read_text())
        if values.get("held_out"):
            return facts.with_suffix(".ogg"), np.asarray(values["beats_s"], np.float64)
    raise UserError(f"{folder}: no song there is marked held_out in its json file")
