"""The contact sheet of a set of records: one page that shows what is in it, and what was left out and why."""

import html
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from champ_jax.data.clip import Clip
from champ_jax.data.prepare.offset import motion_accents
from champ_jax.data.records import Records, open_records
from champ_jax.data.schema import MAPS
from champ_jax.files import write_text
from champ_jax.pose.draw import draw

THUMBNAILS, HEIGHT, STRIP = 6, 160, 48
FOLDER, PAGE = "sheet", "sheet.html"
_STYLE = """body{font:14px sans-serif;margin:24px;color:#222}table{border-collapse:collapse;width:100%}
td,th{border-top:1px solid #ddd;padding:6px;text-align:left;vertical-align:top}img{display:block;max-width:100%}
.reason{color:#a00}small{color:#666}"""


def write_sheet(out: Path, splits: list[str], dropped: dict[str, str], summary: list[str]) -> Path:
    """Writes `sheet.html` and its pictures into the folder of the records; returns the page.

    dropped: {what: reason}. summary: lines for the top of the page.
    """
    (out / FOLDER).mkdir(exist_ok=True)
    rows = []
    for split in splits:
        records = open_records(out, split)
        for number in range(len(records)):
            clip = records[number]
            name = f"{FOLDER}/{split}-{number:06d}.jpg"
            Image.fromarray(picture(clip)).save(out / name, quality=80)
            rows.append(_row(split, clip, name))
    lost = "".join(f"<tr><td>{html.escape(name)}<td class=reason>{html.escape(reason)}" for name, reason in dropped.items())
    page = (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(out.name)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(out.name)}</h1><p>{'<br>'.join(map(html.escape, summary))}"
        "<p><small>Curve: how suddenly the body's speed changes. Lines: beats, downbeats thicker.</small>"
        f"<table><tr><th>clip<th>frames, poses, music{''.join(rows)}</table>"
        f"<h2>Left out ({len(dropped)})</h2><table>{lost or '<tr><td>nothing'}</table>"
    )
    write_text(out / PAGE, page)
    return out / PAGE


def _row(split: str, clip: Clip, name: str) -> str:
    seconds = clip.n_frames * clip.frame_seconds
    maps = [kind for kind in MAPS if len(clip[kind])]
    facts = [
        f"{clip.n_frames} frames, {seconds:.1f} s, {clip.size[1]}x{clip.size[0]}",
        f"face in {int(np.sum(clip['face_valid']))} frames" + (f" ({clip['face_model']})" if clip["face_model"] else ""),
        f"music {clip['music_spec']}, {clip['tempo_bpm']:.0f} bpm" if clip["music_spec"] else "no music",
        f"maps: {', '.join(maps) or 'dwpose alone'}",
        f"licence: {clip['license'][:80]}",
    ]
    words = "<br>".join(html.escape(fact) for fact in facts)
    return f"<tr><td><b>{html.escape(clip.clip_id)}</b> <small>{split}<br>{words}</small><td><img loading=lazy src='{name}'>"


def picture(clip: Clip) -> np.ndarray:
    """u8 [H,W,3]: frames with their skeletons side by side, and under them the motion's accents with the music's beats."""
    height, width = clip.size
    scale = HEIGHT / height
    tiles = []
    for place in np.linspace(0, clip.n_frames - 1, THUMBNAILS).round().astype(int):
        tile = np.full((HEIGHT, max(1, round(width * scale)), 3), 24, np.uint8)
        if clip.stored:
            number = int(np.abs(clip["frame_index"] - place).argmin())
            place = int(clip["frame_index"][number])
            tile = cv2.resize(clip.image("frames", number), tile.shape[1::-1], interpolation=cv2.INTER_AREA) // 2
        keypoints, confidence = clip.keypoints(np.array([place]))
        skeleton = draw(keypoints[0] * scale, confidence[0], tile.shape[:2])
        tiles.append(np.where(skeleton.max(-1, keepdims=True) > 0, skeleton, tile))
    row = np.concatenate(tiles, 1)
    return np.concatenate([row, _strip(clip, row.shape[1])], 0)


def _strip(clip: Clip, width: int) -> np.ndarray:
    strip = np.full((STRIP, width, 3), 255, np.uint8)
    seconds = clip.n_frames * clip.frame_seconds
    for name, thick in (("beats_s", 1), ("downbeats_s", 3)):
        for beat in clip[name]:
            x = int(beat / seconds * width)
            cv2.line(strip, (x, 0), (x, STRIP), (90, 140, 230), thick)
    accents = motion_accents(*clip.keypoints(np.arange(clip.n_frames)), 1 / clip.frame_seconds)
    high = np.percentile(accents, 98) or 1.0
    y = (STRIP - 2 - (accents / max(high, 1e-6)).clip(0, 1) * (STRIP - 6)).astype(np.int32)
    x = np.linspace(0, width - 1, len(accents)).astype(np.int32)
    cv2.polylines(strip, [np.stack([x, y], -1)[:, None]], False, (200, 60, 40), 1, cv2.LINE_AA)
    return strip


def statistics(records: Records) -> dict[str, float]:
    """Figures of a split: clips, frames, seconds, subjects, shares with music, with a face; mean confidence of the body."""
    seconds = faces = music = confidence = frames = 0.0
    subjects = set()
    for number in range(len(records)):
        clip = records[number]
        seconds += clip.n_frames * clip.frame_seconds
        frames += clip.n_frames
        faces += bool(np.any(clip["face_valid"]))
        music += bool(len(clip["music"]))
        confidence += float(clip["kps_conf"][:, :18].mean()) / 255
        subjects.add(clip["subject_id"])
    count = len(records)
    return {
        "clips": count,
        "frames": int(frames),
        "seconds": round(seconds, 1),
        "subjects": len(subjects),
        "with_music": round(music / count, 3),
        "with_face": round(faces / count, 3),
        "body_confidence": round(confidence / count, 3),
    }
