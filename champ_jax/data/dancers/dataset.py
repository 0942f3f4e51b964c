"""Rendered dancers as a data set: real shapes and real motion, exact ground truth, songs composed by code.

`render_clip` draws one clip (render.py). `make_dataset` renders whole splits into records (records.py): identities dance motions
that choreography.py warps in time so that accents fall on a song's beats. The pairing of motion and music is therefore made, not
recorded; that is what lets music predict motion in so small a set.
"""

import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from champ_jax.audio.features import features
from champ_jax.data.codecs import encode_flow, encode_image
from champ_jax.data.dancers.choreography import STYLE_MOTION, choreograph
from champ_jax.data.dancers.clothes import PARTS
from champ_jax.data.dancers.identity import Identity, sample_identity
from champ_jax.data.dancers.mocap import Motion, load_motion
from champ_jax.data.dancers.render import PART_COLOURS, render_clip, render_portrait
from champ_jax.data.dancers.scene import sample_background, sample_camera, sample_light
from champ_jax.data.dancers.songs import compose
from champ_jax.data.estimate.faces_dlib import FACE_MODEL, embed_face
from champ_jax.data.records import write_records
from champ_jax.data.workers import become_worker
from champ_jax.errors import UserError
from champ_jax.files import atomic_file

SPLITS = ("train", "motion", "test", "test_motion")
SILENT = ("hops", "reach", "cartwheel")  # more poses for the frames, without music
SILENT_SHARE = 0.25
TEST_MOTION = "dance_b"
TRAIN_SONG_SEEDS, TEST_SONG_SEED = (0, 1, 3, 4, 5, 6), 1000  # seed 2 is the held-out song of assets/songs
TEST_IDENTITIES = 1_000_000  # first identity seed of the test split
PEOPLE_A_SEED = 10_000
LONGEST = 15.0  # seconds of a clip; the songs are not much longer
LICENSE = "rendered by champ_jax; body CC0 (MakeHuman), motion zlib (pybullet) or free (CMU); see assets/mocap"
SONG_BARS = 8


@dataclass(frozen=True)
class ClipPlan:
    """Everything that decides a clip, so that a clip can be rendered again, anywhere, from its plan alone.

    style: of the song, "" for none; start: where in the song, as a share of the room that `seconds` leave; azimuth: cameras stand
    within +-azimuth degrees of the front; stride: every stride-th motion frame gets pixels, 0 for none; face: with an embedding;
    turn: degrees that the person turns from the first frame to the last, so that one clip shows front and back.
    """

    clip_id: str
    identity: int
    motion: str
    style: str
    song_seed: int
    start: float
    seconds: float
    fps: int
    stride: int
    size: int
    azimuth: float
    seed: int
    face: bool
    music_spec: str
    turn: float = 0.0


def plan_split(
    split: str,
    identities: int,
    clips: int,
    seconds: float,
    fps: int = 24,
    stride: int = 2,
    size: int = 96,
    azimuth: float = 180.0,
    seed: int = 0,
    face: bool = True,
    music_spec: str = "rich192",
    turn: float = 0.0,
) -> list[ClipPlan]:
    """The clips of a split: `clips` for each of `identities` people.

    "train" has frames, and a quarter of its clips are motions without music; "motion" has the same people dancing longer, without
    pixels, for music-to-pose; "test" has other people, cameras, a motion and songs that the others never meet; "test_motion" those
    people and songs with the dances of the songs' styles, without pixels.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    if identities < 1 or clips < 1 or not seconds > 0:
        raise UserError(f"nothing to render: {identities} identities with {clips} clips of {seconds} s each; all must be positive")
    if round(seconds * fps) < 1:
        raise UserError(f"clips of {seconds} s at {fps} frames a second have zero frames: give more seconds")
    if fps < 1 or stride < 1 or size < 16 or seconds > LONGEST:
        raise UserError(f"fps {fps}, stride {stride}, size {size}, seconds {seconds}: expected at least 1, 1, 16 and at most {LONGEST}")
    if seed < 0 or identities > PEOPLE_A_SEED or seed * PEOPLE_A_SEED + identities > TEST_IDENTITIES:
        raise UserError(
            f"seed {seed} with {identities} people: expected a seed of 0 to {TEST_IDENTITIES // PEOPLE_A_SEED - 1} and at most "
            f"{PEOPLE_A_SEED} people, so that no seed shares people with another or with the test splits"
        )
    styles, plans, test = tuple(STYLE_MOTION), [], split.startswith("test")
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    for person in range(identities):
        order = rng.permutation(len(styles))
        for number in range(clips):
            style = styles[order[number % len(styles)]]
            motion = TEST_MOTION if split == "test" else STYLE_MOTION[style]
            if split == "train" and rng.random() < SILENT_SHARE:
                style, motion = "", str(rng.choice(SILENT))
            song_seed = TEST_SONG_SEED if test else int(rng.choice(TRAIN_SONG_SEEDS))
            identity = seed * PEOPLE_A_SEED + person + (TEST_IDENTITIES if test else 0)
            plans.append(
                ClipPlan(
                    f"{split}_{identity:05d}_{number:02d}_{motion}",
                    identity,
                    motion,
                    style,
                    song_seed,
                    float(rng.uniform(0, 1)),
                    seconds,
                    fps,
                    0 if split.endswith("motion") else stride,
                    size,
                    azimuth,
                    int(rng.integers(1 << 31)),
                    face,
                    music_spec,
                    turn,
                )
            )
    return plans


def render_record(plan: ClipPlan) -> dict:
    """The clip of a plan as a record (schema.py)."""
    rng = np.random.default_rng(plan.seed)
    identity = sample_identity(plan.identity)
    dance, about_song = _choreographed(plan)
    count = min(round(plan.seconds * plan.fps), len(dance))
    first = round(plan.start * (len(dance) - count))
    motion = dance.slice(first, count)
    if plan.turn:
        motion = motion.turned(np.linspace(0, plan.turn, count))
    index = np.arange(0, count, plan.stride) if plan.stride else np.arange(0)
    camera, light, background = sample_camera(rng, (-plan.azimuth, plan.azimuth)), sample_light(rng), sample_background(rng)
    clip = render_clip(identity, motion, camera, light, background, index, (plan.size, plan.size))
    flows = [encode_flow(flow) for flow in clip["flow"]]
    vector, model = _face(identity) if plan.face else (np.zeros(0, np.float32), "")
    faces = np.tile(vector, (count, 1)) if len(vector) else np.zeros((0, 0))
    seen = (clip["face_box"][:, 2] > 0) & bool(vector.any())

    return {
        "clip_id": plan.clip_id,
        "subject_id": f"anny_{plan.identity}",
        "motion_id": plan.motion,
        "source": "champ_jax dancers",
        "license": LICENSE,
        "identity_id": plan.identity,
        "fps_num": plan.fps,
        "fps_den": 1,
        "width": plan.size,
        "height": plan.size,
        "n_frames": count,
        "kps": clip["kps"],
        "kps_conf": np.rint(clip["kps_conf"] * 255),
        "contacts": clip["contacts"],
        "bbox": clip["bbox"],
        "face_box": clip["face_box"],
        "shot_id": np.zeros(count),
        "camera": clip["camera"],
        "face_emb": faces,
        "face_valid": seen if len(faces) else np.zeros(0),
        "face_model": model,
        **about_song(first, count),
        "frame_index": index,
        "reference_index": int(clip["kps_conf"][index].mean(1).argmax()) if len(index) else 0,
        "frames": [encode_image("frames", image) for image in clip["frames"]],
        "depth": [encode_image("depth", image) for image in clip["depth"]],
        "normal": [encode_image("normal", image) for image in clip["normal"]],
        "semantic_map": [encode_image("semantic_map", image) for image in clip["semantic_map"]],
        "depth_range": clip["depth_range"],
        "flow": [data for data, _ in flows],
        "flow_scale": np.array([scale for _, scale in flows]),
        "semantic_mirror": _mirror_colours(),
    }


def make_dataset(
    out: str | os.PathLike, split: str, plans: list[ClipPlan], workers: int = 2, progress: Callable[[int, int], None] | None = None
) -> int:
    """Renders the plans of a split and writes it as records into the folder `out`; returns the number of clips.

    Finished clips wait in `out/.SPLIT-clips`, so an interrupted run goes on where it stopped; the split itself appears only when
    complete, and the waiting clips are then deleted. `progress(done, total)` is called after each clip.
    """
    waiting = Path(out) / f".{split}-clips"
    waiting.mkdir(parents=True, exist_ok=True)
    count = write_records(out, split, _rendered(plans, waiting, workers, progress))
    shutil.rmtree(waiting)
    return count


def _rendered(plans: list[ClipPlan], waiting: Path, workers: int, progress: Callable | None) -> Iterator[dict]:
    """The records of the plans, in order, rendered by `workers` processes (in this one if 1)."""
    render = partial(_render_to_file, waiting=waiting)
    pool = multiprocessing.get_context("spawn").Pool(workers, become_worker) if workers > 1 else None
    try:
        for done, path in enumerate(pool.imap(render, plans) if pool else map(render, plans), 1):
            if progress:
                progress(done, len(plans))
            yield pickle.loads(path.read_bytes())[1]
    finally:
        if pool:
            pool.terminate()
            pool.join()


def _render_to_file(plan: ClipPlan, waiting: Path) -> Path:
    path = waiting / f"{plan.clip_id}.pkl"
    if path.is_file() and pickle.loads(path.read_bytes())[0] == repr(plan):
        return path
    rendered = pickle.dumps((repr(plan), render_record(plan)))
    with atomic_file(path) as file:
        file.write(rendered)
    return path


def _choreographed(plan: ClipPlan) -> tuple[Motion, Callable[[int, int], dict]]:
    """The dance to the whole song, and a function from (first frame, count) to the record's fields about the song."""
    loop = load_motion(plan.motion, plan.fps)
    if not plan.style:
        return loop.resample(np.arange(len(loop) + round(plan.seconds * plan.fps)) / plan.fps), lambda first, count: {}
    song, music = _song(plan.style, plan.song_seed, plan.fps, plan.music_spec)

    def about(first: int, count: int) -> dict:
        began, ended = first / plan.fps, (first + count) / plan.fps
        beats, downbeats = (times[(times >= began) & (times < ended)] - began for times in (song.beats_s, song.downbeats_s))
        return {
            "song_id": song.name,
            "style_id": song.style_id,
            "tempo_bpm": song.tempo_bpm,
            "beats_s": beats,
            "downbeats_s": downbeats,
            "music": music[first : first + count],
            "music_fps": plan.fps,
            "music_spec": f"{plan.music_spec}@{plan.fps}",
        }

    return choreograph(loop, song, plan.fps), about


@lru_cache(maxsize=32)
def _song(style: str, seed: int, fps: int, spec: str) -> tuple:
    """A song and its features f32 [F,Dm] at `fps`."""
    song = compose(style, seed, bars=SONG_BARS)
    return song, np.asarray(features(song.audio, song.rate, fps, spec, beats=song.beats_s))


@lru_cache(maxsize=4)
def _face(identity: Identity) -> tuple[np.ndarray, str]:
    return embed_face(render_portrait(identity))[0], FACE_MODEL


def _mirror_colours() -> np.ndarray:
    """Colours of the semantic map that change places in a mirrored image, u8 [P,2,3]."""
    names = [name[:-2] for name in PARTS if name.endswith("_l")]
    return np.stack([[PART_COLOURS[PARTS.index(name + side)] for side in ("_l", "_r")] for name in names])
