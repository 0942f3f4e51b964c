"""Small clips with everything a record can hold, drawn so that a test can tell where each pixel came from."""

import numpy as np
import pytest

from champ_jax.data.codecs import encode_flow, encode_image
from champ_jax.data.records import open_records, write_records

LEFT, RIGHT, TRUNK = (200, 30, 30), (30, 30, 200), (30, 200, 30)


def paint(height: int, width: int, x: int, y: int, colours) -> np.ndarray:
    """uint8 [H,W,3]: a 12x20 figure at (x, y) in three vertical bars (its right, trunk, left) on black."""
    image = np.zeros((height, width, 3), np.uint8)
    for bar, colour in enumerate(colours):
        image[y : y + 20, x + 4 * bar : x + 4 * bar + 4] = colour
    return image


def example(name="clip", frames=12, stored=6, size=(48, 48), identity=0, fps=(24, 1), music_fps=24.0, maps=True, seed=0) -> dict:
    """A valid example: a figure that moves 1 pixel a motion frame; every second motion frame has pixels."""
    rng = np.random.default_rng(seed)
    height, width = size
    index = np.arange(stored) * 2
    left_edge = 4 + index
    kps = np.zeros((frames, 134, 2), np.float32)
    kps[:] = rng.uniform(0, [12, 20], (134, 2))
    kps += np.stack([4 + np.arange(frames), np.full(frames, 10)], -1)[:, None]
    kps[:, 2] = kps[:, 5] - [6, 0]
    figures = [paint(height, width, x, 10, (RIGHT, TRUNK, LEFT)) for x in left_edge]
    photos = [np.where(f.any(-1, keepdims=True), f, 90).astype(np.uint8) for f in figures]
    seconds = frames * fps[1] / fps[0]
    faces = rng.normal(size=(frames, 8))
    clip = dict(
        clip_id=name, subject_id=f"person {identity}", source="test", license="CC0", identity_id=identity,
        fps_num=fps[0], fps_den=fps[1], width=width, height=height,
        kps=kps, kps_conf=np.full((frames, 134), 255), face_emb=faces / np.linalg.norm(faces, axis=1, keepdims=True),
        face_valid=np.ones(frames), face_model="test/8", face_box=np.tile([6.0, 11.0, 12.0, 15.0], (frames, 1)),
        music=np.arange(round(seconds * music_fps) + 1)[:, None] / music_fps * np.ones(4), music_fps=music_fps,
        music_spec=f"custom@{music_fps:g}", beats_s=[0.5], tempo_bpm=120.0, reference_index=min(1, max(stored - 1, 0)),
        frame_index=index, frames=[encode_image("frames", photo) for photo in photos],
        semantic_mirror=[[LEFT, RIGHT]],
    )  # fmt: skip
    if maps and stored:
        flows = [encode_flow(np.dstack([2.0 * f.any(-1), np.zeros((height, width))])) for f in figures]
        normals = [paint(height, width, x, 10, ((40, 127, 220), (127, 127, 255), (210, 127, 220))) for x in left_edge]
        clip |= dict(
            depth=[encode_image("depth", f.any(-1) * np.uint8(100)) for f in figures],
            normal=[encode_image("normal", n) for n in normals],
            semantic_map=[encode_image("semantic_map", f) for f in figures],
            depth_range=np.tile([1.0, 3.0], (stored, 1)),
            flow=[data for data, _ in flows], flow_scale=[scale for _, scale in flows],
        )  # fmt: skip
    return clip


@pytest.fixture
def make_example():
    return example


@pytest.fixture
def records(tmp_path):
    """Four clips of four people with frames (split train) and one of motion alone (split motion)."""
    write_records(tmp_path / "data", "train", (example(f"c{i}", identity=i, seed=i) for i in range(4)))
    write_records(tmp_path / "data", "motion", [example("m0", frames=40, stored=0, seed=9)])
    return open_records(tmp_path / "data", "train", keep=True)
