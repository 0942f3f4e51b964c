"""One piece of a source to examples of the record schema: frames, the person's pose, faces, maps and music, a shot an example.

Frames pass one by one: each is looked at and compressed as it comes, so a piece takes the memory of its compressed frames.
"""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from champ_jax.data import codecs, media
from champ_jax.data.estimate.faces import FaceModel, embed_faces, face_boxes
from champ_jax.data.estimate.maps import MapModel, open_map_model
from champ_jax.data.estimate.models import MEDIAPIPE, open_estimator, open_faces
from champ_jax.data.estimate.people import Estimator, People, boxes_of
from champ_jax.data.estimate.tracks import Track, follow, share_of_body
from champ_jax.data.pose_files import read_drawing, read_keypoints, resample_pose
from champ_jax.data.prepare import aist
from champ_jax.data.prepare.offset import measure_offset, motion_accents
from champ_jax.data.prepare.shots import Shots
from champ_jax.data.prepare.soundtrack import Music, hear
from champ_jax.data.prepare.source import Source
from champ_jax.data.records import open_records
from champ_jax.data.schema import MAPS
from champ_jax.errors import UserError
from champ_jax.pose.skeleton import THRESHOLD

PRESENT, ENOUGH = 0.6, 0.3
"""Share of a shot's frames in which the person must be found, and of the body's joints that must be seen for that."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `prepare` was asked for; all but `validation` decides what becomes of a piece.

    fps: of the records. size: pixels of a frame's shorter side, which is never enlarged. clip_seconds, least_seconds: longest and
    shortest clip. estimator: "mediapipe", "none", or a folder of ONNX files. person: whom to follow, 0 for the main one. faces:
    "dlib", "none", or a folder of ONNX files. maps: (kind, ONNX file) pairs. music: a spec of audio/features.py, or "none".
    license: of sources that do not state theirs. validation: share of the subjects that is kept for validation.
    """

    fps: Fraction = Fraction(30)
    size: int = 512
    clip_seconds: float = 10.0
    least_seconds: float = 1.0
    estimator: str = MEDIAPIPE
    person: int = 0
    faces: str = "dlib"
    maps: tuple[tuple[str, str], ...] = ()
    music: str = "rich192"
    license: str = ""
    validation: float = 0.05

    @property
    def clip_frames(self) -> int:
        """Frames of the longest clip."""
        return max(1, int(self.clip_seconds * self.fps))

    @property
    def least_frames(self) -> int:
        """Frames of the shortest clip."""
        return max(1, round(self.least_seconds * self.fps))

    def fingerprint(self) -> list[str]:
        """All that decides what becomes of a piece, the models' files included: a better one may lie under the old name."""
        models = map(Path, [self.estimator, self.faces, *(file for _, file in self.maps)])
        files = [file for model in models for file in (sorted(model.glob("*.onnx")) if model.is_dir() else [model]) if file.is_file()]
        given = [f"{name}={value}" for name, value in dataclasses.asdict(self).items() if name != "validation"]
        return given + [_content(file, file.stat().st_mtime_ns) for file in files]


@functools.cache
def _content(path: Path, changed_ns: int) -> str:
    """Names what a file holds, the same on every host; read once, until the file changes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Piece:
    """`count` frames from frame `first`, at the records' rate, of a source; for records the record `first`. number: which of its pieces.
    identity: the number of the source's subject. stamp: changes with the source's files."""

    source: Source
    number: int
    first: int
    count: int
    identity: int
    stamp: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of a piece; JSON holds it.

    clips: {clip id: frames}. dropped: {what: reason}, "" for all of it. offset_s: by how much the music seems to come after the
    motion, and sure, how sure that is.
    """

    source: str
    clips: dict[str, int] = dataclasses.field(default_factory=dict)
    dropped: dict[str, str] = dataclasses.field(default_factory=dict)
    offset_s: float = 0.0
    sure: float = 0.0


@dataclasses.dataclass
class Tools:
    """What a process opens once."""

    estimator: Estimator | None
    faces: FaceModel | None
    maps: dict[str, MapModel]
    _stack: contextlib.ExitStack

    @classmethod
    def open(cls, settings: Settings) -> "Tools":
        """Raises UserError, with what to install or which file is wanted, where one cannot be opened."""
        stack = contextlib.ExitStack()
        faces = None if settings.faces == "none" else open_faces(settings.faces)
        maps = {kind: open_map_model(kind, Path(path)) for kind, path in settings.maps}
        estimator = None if settings.estimator == "none" else stack.enter_context(open_estimator(settings.estimator))
        return cls(estimator, faces, maps, stack)

    def __enter__(self) -> "Tools":
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()


def length_of(source: Source, settings: Settings) -> int:
    """Frames of a source at the records' rate; of records, how many. UserError if it cannot be read."""
    if source.layout == "records":
        return len(open_records(source.path, source.part))
    if source.layout == "aist":
        return int(len(aist.read_sequence(source.path)[0]) * settings.fps / aist.FPS)
    if source.is_video:
        about = media.probe(source.path)
        if not about.width:
            raise UserError(f"{source.path}: it holds sound and no video")
        return int(about.seconds * settings.fps + Fraction(1, 1000))
    return int((max(source.frames) - min(source.frames) + 1) * settings.fps / source.fps)


def prepare_piece(piece: Piece, settings: Settings, tools: Tools) -> tuple[list[dict[str, Any]], Report]:
    """The examples of a piece (schema.py) and its report.

    Raises:
      UserError: the piece cannot be read; the message names the file.
    """
    source = piece.source
    if source.layout == "records":
        fields = open_records(source.path, source.part)[piece.first].fields
        return [fields], Report(source.name, {fields["clip_id"]: fields["n_frames"]})
    if source.layout == "aist":
        people = _people(*aist.read_sequence(source.path), aist.FPS, piece, settings)
        frames, cuts, size = [], np.arange(piece.count) == 0, aist.SIZE
    else:
        frames, people, cuts, size = look(piece, settings, tools)
    track = follow(people, cuts, size, settings.person)
    music = None if settings.music == "none" else hear(source, piece.first, len(people), settings.fps, settings.music)
    return _examples(piece, settings, tools, frames, track, music, size)


def images_of(piece: Piece, settings: Settings) -> Iterator[tuple[np.ndarray | None, int, tuple[int, int]]]:
    """(image u8 [H,W,3] at the records' size, None where a folder has a gap; number of the frame in its folder; the frame's own
    (H, W)) of a piece's frames, in order."""
    source, fps = piece.source, settings.fps
    if source.is_video:
        about = media.probe(source.path)
        longest = round(max(about.width, about.height) * min(1.0, settings.size / min(about.width, about.height)))
        frames = media.read_frames(source.path, fps, float(piece.first / fps), piece.count, longest)
        yield from ((image, 0, (about.height, about.width)) for image in frames)
        return
    begin = min(source.frames)
    for number in range(piece.first, piece.first + piece.count):
        place = begin + round(number * source.fps / fps)
        if place not in source.frames:
            yield None, place, (0, 0)
            continue
        image = media.read_image(source.frames[place])
        yield fitted(image, settings.size), place, image.shape[:2]


def fitted(image: np.ndarray, size: int) -> np.ndarray:
    """u8 [H,W,3] whose shorter side has at most `size` pixels, with even sides."""
    height, width = image.shape[:2]
    scale = min(1.0, size / min(height, width))
    sides = tuple(max(2, 2 * round(side * scale / 2)) for side in (width, height))
    return image if sides == (width, height) else cv2.resize(image, sides, interpolation=cv2.INTER_AREA)


def look(piece: Piece, settings: Settings, tools: Tools) -> tuple[list[bytes | None], list[People], np.ndarray, tuple[int, int]]:
    """(frames, compressed, None in a gap; who is in each; bool [T] where a shot begins; (H, W)) of a piece with pixels."""
    source = piece.source
    given, drawn = source.keypoints is not None, source.maps.get("dwpose")
    if tools.estimator is None and not given and not drawn:
        raise UserError(f"{source.path}: no poses are given, and the estimator is 'none': give keypoints.npz, or choose an --estimator")
    if tools.estimator is not None:
        tools.estimator.begin()
    shots, frames, people, size, own = Shots(), [], [], None, (0, 0)
    for image, number, own_size in images_of(piece, settings):
        if image is None:
            frames.append(None)
            people.append(People.nobody())
            shots.add_gap()
            continue
        size, own = size or image.shape[:2], own_size
        if image.shape[:2] != size:
            raise UserError(
                f"{source.frames.get(number, source.path)}: {image.shape[1]}x{image.shape[0]} pixels, but the frames before it have "
                f"{size[1]}x{size[0]}; make all frames of a clip the same size"
            )
        frames.append(codecs.encode_image("frames", image))
        shots.add(image)
        if given:
            continue
        if tools.estimator is not None:
            people.append(tools.estimator.estimate(image))
        else:
            drawing = media.read_image(drawn[number])
            keypoints, confidence = read_drawing(drawing)
            scale = np.array([size[1] / drawing.shape[1], size[0] / drawing.shape[0]], np.float32)
            people.append(_one(keypoints * scale, confidence))
    if size is None:
        raise UserError(f"{source.path}: no frame from {float(piece.first / settings.fps):.1f} s on")
    if given:
        keypoints, confidence, rate = read_keypoints(source.keypoints, size, own)
        if source.frames:
            rate = rate or source.fps
            keypoints, confidence = _by_number(keypoints, source), _by_number(confidence, source)
        people = _people(keypoints, confidence, rate or settings.fps, piece, settings)[: len(frames)]
    return frames, people, shots.cuts(), size


def _by_number(rows: np.ndarray, source: Source) -> np.ndarray:
    """Rows of poses by the frames' numbers: where a folder has gaps, and the poses a row for each frame that is there, with zeros
    in the gaps."""
    numbers = np.array(list(source.frames)) - min(source.frames)
    if len(rows) != len(numbers) or len(numbers) == numbers[-1] + 1:
        return rows
    full = np.zeros((numbers[-1] + 1, *rows.shape[1:]), rows.dtype)
    full[numbers] = rows
    return full


def _people(keypoints: np.ndarray, confidence: np.ndarray, rate: Fraction, piece: Piece, settings: Settings) -> list[People]:
    """Poses of one person at `rate` as those of a piece's frames."""
    return [_one(*pose) for pose in zip(*resample_pose(keypoints, confidence, rate, settings.fps, piece.first, piece.count))]


def _one(keypoints: np.ndarray, confidence: np.ndarray) -> People:
    if not (confidence >= THRESHOLD).any():
        return People.nobody()
    return People(keypoints[None], confidence[None], boxes_of(keypoints, confidence, THRESHOLD)[None])


def _examples(
    piece: Piece,
    settings: Settings,
    tools: Tools,
    frames: list[bytes | None],
    track: Track,
    music: Music | None,
    size: tuple[int, int],
) -> tuple[list[dict[str, Any]], Report]:
    """An example of each shot that shows the person long enough, and the report."""
    fps, source = settings.fps, piece.source
    examples, clips, dropped = [], {}, {}
    for shot in range(int(track.shots.max(initial=-1)) + 1):
        within = np.flatnonzero(track.shots == shot)
        here = within[track.present[within] & (share_of_body(track.confidence[within]) >= ENOUGH)]
        seconds = [float((piece.first + edge) / fps) for edge in (within[0], within[-1] + 1)]
        where = f"{seconds[0]:.1f}-{seconds[1]:.1f} s"
        if not len(here):
            if not frames or frames[within[0]] is not None:
                dropped[where] = "nobody is found"
            continue
        first, count = int(here[0]), int(here[-1] - here[0]) + 1
        if count < settings.least_frames:
            dropped[where] = f"the person is seen for {float(count / fps):.1f} s; a clip has at least {settings.least_seconds:g}"
            continue
        if len(here) < PRESENT * count:
            dropped[where] = f"the person is found in {len(here)} of {count} frames"
            continue
        clip_id = f"{source.name}_{piece.number:04d}_{shot:02d}"
        examples.append(_example(clip_id, piece, settings, tools, frames, track, music, size, first, count))
        clips[clip_id] = count
    offset = (0.0, 0.0)
    if music is not None:
        offset = measure_offset(music.onsets, motion_accents(track.keypoints, track.confidence, float(fps)), float(fps))
    return examples, Report(source.name, clips, dropped, *offset)


def _example(clip_id, piece, settings, tools, frames, track: Track, music: Music | None, size, first: int, count: int) -> dict[str, Any]:
    """The record of `count` frames from frame `first` of a piece."""
    fps, source, part = settings.fps, piece.source, slice(first, first + count)
    keypoints, confidence = track.keypoints[part], track.confidence[part]
    example = {
        "clip_id": clip_id,
        "subject_id": source.subject,
        "source": source.layout,
        "license": source.license or settings.license or "not stated",
        "identity_id": piece.identity,
        "fps_num": fps.numerator,
        "fps_den": fps.denominator,
        "height": size[0],
        "width": size[1],
        "n_frames": count,
        "kps": keypoints,
        "kps_conf": np.rint(confidence * 255),
        "bbox": track.boxes[part],
        "shot_id": np.zeros(count),
    }
    if source.layout == "aist":
        example |= {"style_id": aist.style_of(source.name), "song_id": aist.song_of(source.name)}
    if music is not None:
        heard = music.part(first, count, fps)
        names = {"music": heard.rows, "music_fps": heard.fps, "music_spec": heard.spec, "audio_offset_s": heard.offset_s}
        example |= names | {"beats_s": heard.beats_s, "downbeats_s": heard.downbeats_s, "tempo_bpm": heard.tempo_bpm}
    stored = [number for number in range(first, first + count) if frames and frames[number] is not None]
    if not stored:
        return example
    example["frame_index"] = np.array(stored) - first
    example["frames"] = [frames[number] for number in stored]
    example["reference_index"] = int(confidence[example["frame_index"]].mean(1).argmax())
    if tools.faces is not None:
        boxes = face_boxes(keypoints, confidence, size)
        vectors, valid = embed_faces(tools.faces, lambda frame: codecs.decode_image("frames", frames[first + frame]), boxes)
        example |= {"face_box": boxes, "face_emb": vectors, "face_valid": valid, "face_model": tools.faces.name}
    return example | _maps(piece, settings, tools, stored, frames, size)


def _maps(
    piece: Piece, settings: Settings, tools: Tools, stored: list[int], frames: list[bytes | None], size: tuple[int, int]
) -> dict[str, Any]:
    """The guidance maps of the stored frames: those that the source has, and else those of the models."""
    source, maps = piece.source, {}
    for kind in MAPS:
        if kind in source.maps:
            maps[kind] = [codecs.encode_image(kind, _given_map(piece, settings, kind, number, size)) for number in stored]
        elif kind in tools.maps:
            images = (codecs.decode_image("frames", frames[number]) for number in stored)
            maps[kind] = [codecs.encode_image(kind, tools.maps[kind](image)) for image in images]
    return maps


def _given_map(piece: Piece, settings: Settings, kind: str, number: int, size: tuple[int, int]) -> np.ndarray:
    """A map as its file has it, at the size of the frames; a semantic map is black where the mask says that nobody is, as in CHAMP."""
    source = piece.source
    place = min(source.frames) + round((piece.first + number) * source.fps / settings.fps)
    interpolation = cv2.INTER_NEAREST if kind == "semantic_map" else cv2.INTER_AREA
    image = cv2.resize(media.read_image(source.maps[kind][place]), size[::-1], interpolation=interpolation)
    if kind == "semantic_map" and "mask" in source.maps:
        mask = cv2.resize(media.read_image(source.maps["mask"][place]), size[::-1], interpolation=cv2.INTER_NEAREST)
        image = np.where(mask.max(-1, keepdims=True) > 0, image, 0)
    return image.max(-1) if MAPS[kind] == 1 else image
