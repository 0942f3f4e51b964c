"""The record schema: one record is one clip of at most 20 s, with its motion, its music and any number of frames.

Fields (T motion frames at fps_num/fps_den, n <= T of them with pixels, n = 0 for motion alone):

  clip_id, subject_id, motion_id, song_id, source, license   text; style_id (-1 none), identity_id   int32
  fps_num, fps_den, width, height, n_frames (= T)   int32
  kps f16 [T,134,2] continuous pixel coordinates (pixel 0 spans 0..1); kps_conf u8 [T,134] (x255)
  contacts u8 [T,4]; bbox f16 [T,4]; face_box f16 [T,4] xyxy pixels, zeros for none; shot_id i32 [T]
  camera f32 [any]; face_emb f16 [T,E] unit norm; face_valid u8 [T]; face_model text
  music f16 [Tm,Dm]; music_spec text such as "rich192@24"; music_fps f32; audio_offset_s f32 (audio minus video)
  beats_s f32 [any]; downbeats_s f32 [any]; tempo_bpm f32; audio_ogg bytes, empty where the licence forbids it
  frame_index i32 [n] which motion frames have pixels; reference_index i32, into frames, the person's photo
  frames, depth, normal, semantic_map   encoded images, n each; a map may be missing (0 images)
  depth_range f32 [n,2] metric near and far of each depth image
  flow bytes, n or none, to the next stored frame, and flow_scale f32 [n] (codecs.encode_flow)
  semantic_mirror u8 [P,2,3] colours of the semantic map that change places in a mirrored image; none: not mirrored
"""

import functools
from typing import Any

import numpy as np

from champ_jax.errors import UserError

SCHEMA_NAME = "champ_clips"
SCHEMA_VERSION = "1.0.0"
KEYPOINTS = 134

_TEXT = ("clip_id", "subject_id", "motion_id", "song_id", "source", "license", "face_model", "music_spec")
_INTEGERS = (
    "style_id", "identity_id", "fps_num", "fps_den", "width", "height", "n_frames", "reference_index"
)  # fmt: skip
_FLOATS = ("music_fps", "tempo_bpm", "audio_offset_s")
_ARRAYS = {
    "kps": ((None, KEYPOINTS, 2), np.float16),
    "kps_conf": ((None, KEYPOINTS), np.uint8),
    "contacts": ((None, 4), np.uint8),
    "bbox": ((None, 4), np.float16),
    "face_box": ((None, 4), np.float16),
    "shot_id": ((None,), np.int32),
    "camera": ((None,), np.float32),
    "face_emb": ((None, None), np.float16),
    "face_valid": ((None,), np.uint8),
    "music": ((None, None), np.float16),
    "beats_s": ((None,), np.float32),
    "downbeats_s": ((None,), np.float32),
    "frame_index": ((None,), np.int32),
    "depth_range": ((None, 2), np.float32),
    "flow_scale": ((None,), np.float32),
    "semantic_mirror": ((None, 2, 3), np.uint8),
}
# Channels of each guidance map that is stored (the skeleton, dwpose, is drawn from keypoints), and of the photos.
MAPS = {"depth": 1, "normal": 3, "semantic_map": 3}
IMAGES = {"frames": 3, **MAPS}
FIELDS = (*_TEXT, *_INTEGERS, *_FLOATS, *_ARRAYS, *IMAGES, "flow", "audio_ogg")
REQUIRED = ("clip_id", "fps_num", "fps_den", "width", "height", "kps", "kps_conf")

# Arrays with one row for each motion frame; each may also be absent (0 rows) unless it is required.
PER_MOTION_FRAME = ("kps", "kps_conf", "contacts", "bbox", "face_box", "shot_id", "face_emb", "face_valid")
# Lists and arrays with one entry for each stored frame, or none.
PER_STORED_FRAME = (*IMAGES, "flow", "flow_scale", "depth_range")


@functools.cache
def features():
    """The schema as a tfds FeaturesDict."""
    import tensorflow_datasets as tfds

    kinds = tfds.features
    spec: dict[str, Any] = {name: kinds.Text() for name in _TEXT}
    spec |= {name: kinds.Scalar(np.int32) for name in _INTEGERS}
    spec |= {name: kinds.Scalar(np.float32) for name in _FLOATS}
    spec |= {name: kinds.Tensor(shape=s, dtype=d, encoding="zlib") for name, (s, d) in _ARRAYS.items()}
    spec |= {name: kinds.Sequence(kinds.Image(shape=(None, None, c))) for name, c in IMAGES.items()}
    spec["flow"] = kinds.Sequence(kinds.Scalar(np.object_))
    spec["audio_ogg"] = kinds.Scalar(np.object_)
    return kinds.FeaturesDict(spec)


def complete(example: dict[str, Any], where: str) -> dict[str, Any]:
    """`example` with every field of the schema in its stored type; absent optional fields become empty.

    where: words for error messages, such as "train, example 3". Raises UserError on unknown, missing or
    inconsistent fields.
    """
    unknown = sorted(set(example) - set(FIELDS))
    missing = [name for name in REQUIRED if name not in example]
    if unknown or missing:
        raise UserError(f"{where}: unknown fields {unknown}, missing fields {missing}; known fields: {sorted(FIELDS)}.")
    full: dict[str, Any] = {name: example.get(name, "") for name in _TEXT}
    full |= {name: int(example.get(name, -1 if name == "style_id" else 0)) for name in _INTEGERS}
    full |= {name: float(example.get(name, 0.0)) for name in _FLOATS}
    for name, (shape, dtype) in _ARRAYS.items():
        value = np.asarray(example.get(name, np.zeros([size or 0 for size in shape])), dtype)
        if value.ndim != len(shape) or any(s is not None and s != v for s, v in zip(shape, value.shape)):
            raise UserError(f"{where}: field {name} has shape {value.shape}, expected {shape}.")
        full[name] = value
    for name in (*IMAGES, "flow"):
        full[name] = list(example.get(name, ()))
    full["audio_ogg"] = bytes(example.get("audio_ogg", b""))
    full["n_frames"] = full["n_frames"] or len(full["kps"])
    check(full, where)
    return full


def check(example: dict[str, Any], where: str) -> None:
    """Raises UserError where the lengths or indices of a complete example contradict each other."""
    frames, stored = example["n_frames"], len(example["frame_index"])

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise UserError(f"{where}: {message}")

    require(frames > 0, "zero frames; a clip needs at least one row in kps.")
    for name in ("fps_num", "fps_den", "width", "height"):
        require(example[name] > 0, f"field {name} is {example[name]}, expected a positive number.")
    for name in PER_MOTION_FRAME:
        allowed = (frames,) if name in REQUIRED else (0, frames)
        rows = len(example[name])
        require(rows in allowed, f"field {name} has {rows} rows, but n_frames is {frames}.")
    for name in PER_STORED_FRAME:
        count = len(example[name])
        allowed = (stored,) if name == "frames" else (0, stored)
        require(count in allowed, f"field {name} has {count} entries, but frame_index names {stored} frames.")
    index = example["frame_index"]
    inside = stored == 0 or (index.min() >= 0 and index.max() < frames and (np.diff(index) > 0).all())
    require(inside, f"field frame_index must ascend within 0..{frames - 1}.")
    require(0 <= example["reference_index"] < max(stored, 1), f"reference_index {example['reference_index']} names none "
            f"of the {stored} stored frames.")  # fmt: skip
    require(len(example["music"]) == 0 or example["music_fps"] > 0, "music without music_fps.")
