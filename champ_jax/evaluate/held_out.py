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
from champ_jax.data.samples import SampleSpec, make_sample
from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.errors import UserError
from champ_jax.evaluate.clips import Clip as Judged
from champ_jax.evaluate.clips import Motion, frames_of
from champ_jax.evaluate.dances import dance_scores
from champ_jax.evaluate.judge import Judge, judge_clips
from champ_jax.evaluate.summary import summarise
from champ_jax.evaluate.who import IdentityJudge
from champ_jax.infer.pipeline import Pipeline

GALLERY = 8  # people among whom identity_top1 chooses


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
    """One test clip: the truth, the maps {kind: u8 [F,H,W,3]} that describe its motion, and the photo's pose
    (keypoints [J,2] pixels, confidence [J])."""

    truth: TruthClip
    guidance: dict[str, np.ndarray]
    pose: tuple[np.ndarray, np.ndarray]
    fps: float


def read_clip(clip: Clip, size: tuple[int, int], frames: int, kinds: tuple[str, ...] = GUIDANCE_KINDS) -> HeldOutClip:
    """The first `frames` stored frames of a clip at `size` (height, width), seen exactly as training would."""
    frames = min(frames, clip.stored)
    spec = SampleSpec("C", frames, 1, size, kinds, motion_frames=0, music_dim=0, face_dim=0, augment=None)
    sample = make_sample(clip, 0, 1, spec, None, None)
    truth = TruthClip(
        frames=sample["video"],
        mask=sample["mask"],
        semantic_map=np.stack([_semantic_map(clip, number, size) for number in range(frames)]),
        photo=sample["reference"][0],
        photo_map=_semantic_map(clip, int(clip["reference_index"]), size),
        identity=int(clip["identity_id"]),
    )
    step = float(np.median(np.diff(clip["frame_index"]))) if clip.stored > 1 else 1.0
    pose = (sample["reference_keypoints"][0], sample["reference_confidence"][0])
    return HeldOutClip(truth, sample["guidance"], pose, 1 / (clip.frame_seconds * step))


def _semantic_map(clip: Clip, number: int, size: tuple[int, int]) -> np.ndarray:
    view = transforms.fit(clip.size, size, clip.person_box)
    return view.semantic_map(clip.image("semantic_map", number), clip["semantic_mirror"])


def make_judge(directory: str | os.PathLike, size: tuple[int, int], people: int = GALLERY) -> IdentityJudge:
    """A judge over all people of the test split and as many of the train split as make `people` altogether."""
    photos: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for split in ("test", "train"):
        records = open_records(directory, split)
        for number, info in enumerate(records.infos):
            if info.stored and info.identity_id not in photos and (split == "test" or len(photos) < people):
                truth = read_clip(records[number], size, 1).truth
                photos[info.identity_id] = (truth.photo, truth.photo_map)
    if len(photos) < 2:
        raise UserError(f"{directory}: {len(photos)} people in its splits test and train; telling them apart takes two")
    images, maps = (np.stack(x) for x in zip(*photos.values(), strict=True))
    return IdentityJudge(images, maps, list(photos))


def animate_clips(
    pipe: Pipeline, clips: list[HeldOutClip], seed: int = 0, on_progress: Callable[[int, int], None] | None = None
) -> list[np.ndarray]:
    """u8 [F,H,W,3] for each clip: its photo, animated by those of its maps that the model knows."""
    outputs = []
    for number, clip in enumerate(clips):
        guidance = {kind: clip.guidance[kind] for kind in pipe.kinds if kind in clip.guidance}

        def report(done: int, total: int, number: int = number) -> None:
            if on_progress is not None:
                on_progress(number * total + done, len(clips) * total)

        video = pipe.animate(clip.truth.photo, guidance, pose=clip.pose, size=clip.truth.photo.shape[:2], seed=seed, on_progress=report)
        outputs.append(video.frames)
    return outputs


def judged(outputs: list[np.ndarray], clips: list[HeldOutClip], people: IdentityJudge) -> dict[str, Callable[[], Judged]]:
    """{person: opens the clip} of outputs u8 [F,H,W,3], one for each clip, beside the truth, as `judge_clips` takes them."""

    def open_one(output: np.ndarray, clip: HeldOutClip, name: str) -> Judged:
        truth = clip.truth

        def scores(frames: np.ndarray, first: int) -> dict[str, np.ndarray]:
            maps = truth.semantic_map[first : first + len(frames)]
            return {"identity_top1": people.right(frames, maps, truth.identity).astype(np.float64)}

        streams = (frames_of(output), frames_of(truth.frames), truth.photo, frames_of(truth.mask))
        return Judged(name, clip.fps, *streams, scores=scores)

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


def contact_sheet(columns: list[list[np.ndarray]], picks: int, scale: int = 2) -> np.ndarray:
    """One picture u8: a row for each of `picks` frames of each clip, a column for each of `columns`, lists of videos."""
    rows = []
    for videos in zip(*columns, strict=True):
        for frame in np.linspace(0, len(videos[0]) - 1, picks).round().astype(int):
            rows.append(np.concatenate([video[frame] for video in videos], 1))
    return np.concatenate(rows).repeat(scale, 0).repeat(scale, 1)


def held_out_song(folder: Path) -> tuple[Path, np.ndarray]:
    """The song file whose json says "held_out", and its beats in seconds; UserError when there is none."""
    import json

    for facts in sorted(folder.glob("*.json")):
        values = json.loads(facts.read_text())
        if values.get("held_out"):
            return facts.with_suffix(".ogg"), np.asarray(values["beats_s"], np.float64)
    raise UserError(f"{folder}: no song there is marked held_out in its json file")
