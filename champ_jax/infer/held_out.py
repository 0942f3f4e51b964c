"""Clips of people, motion and cameras kept out of training: read as the model needs them, animated and scored."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from champ_jax.data import transforms
from champ_jax.data.clip import Clip
from champ_jax.data.records import Records, open_records
from champ_jax.data.samples import SampleSpec, make_sample
from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.errors import UserError
from champ_jax.infer.pipeline import Pipeline
from champ_jax.infer.score import IdentityJudge, TruthClip, copy_of, mean_scores, score_clip
from champ_jax.metrics import motion

GALLERY = 8  # people among whom identity_top1 chooses


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
        photo=sample["reference"],
        photo_map=_semantic_map(clip, int(clip["reference_index"]), size),
        identity=int(clip["identity_id"]),
    )
    step = float(np.median(np.diff(clip["frame_index"]))) if clip.stored > 1 else 1.0
    pose = (sample["reference_keypoints"], sample["reference_confidence"])
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


def score_outputs(outputs: Mapping[str, list[np.ndarray]], clips: list[HeldOutClip], judge: IdentityJudge) -> dict[str, dict[str, float]]:
    """Mean scores of each named list of outputs (one [F,H,W,3] a clip), and of "copy_reference", the photo standing still."""
    copies = [copy_of(clip.truth.photo, len(clip.truth.frames)) for clip in clips]
    return {
        name: mean_scores([score_clip(output, clip.truth, judge) for output, clip in zip(videos, clips, strict=True)])
        for name, videos in {**outputs, "copy_reference": copies}.items()
    }


def score_dance(metadata: Mapping, beats: np.ndarray, records: Records) -> dict[str, float]:
    """energy_ratio and beat_alignment_corrected of a dance.

    metadata: of `Pipeline.dance`. beats: the song's, in seconds. records: motion of the data, whose mean energy is 1.
    """
    keypoints, confidence, fps = (metadata[key] for key in ("keypoints", "confidence", "motion_fps"))
    energies = []
    for number in range(len(records)):
        clip = records[number]
        energies.append(motion.motion_energy(*clip.keypoints(np.arange(clip.n_frames)), 1 / clip.frame_seconds))
    stops = motion.motion_beats(motion.body_speed(keypoints, confidence, fps), fps)
    heard = beats[beats < len(keypoints) / fps]
    return {
        "energy_ratio": motion.motion_energy(keypoints, confidence, fps) / float(np.mean(energies)),
        "beat_alignment_corrected": motion.beat_alignment_corrected(stops, heard),
    }


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
