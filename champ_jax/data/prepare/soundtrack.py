"""The music of a stretch of a clip: features a frame, beats, downbeats and tempo, from its sound or from a file of features.

Each stretch is heard with some seconds before and after it, so that tempo and loudness are judged alike whether a video is
long or short, and memory does not grow with it.
"""

import json
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from champ_jax.audio.beats import find_downbeats, onset_envelope, track_beats
from champ_jax.audio.features import FEATURE_RATE, features
from champ_jax.audio.load import SILENCE_DB
from champ_jax.data.media import probe, read_audio
from champ_jax.data.prepare.source import Source
from champ_jax.errors import UserError

CONTEXT = 15
"""Seconds heard before and after a stretch."""
JUKEBOX = "jukebox4800"
TOLERANCE = 0.2
"""Seconds by which a file of features may be shorter or longer than its clip."""
NONE = np.zeros(0, np.float32)


class Music(NamedTuple):
    """rows f16 [Tm,Dm], of which row k lies at offset_s + k/fps seconds of the stretch; spec such as "rich192@30"; beats_s, downbeats_s
    f32 [n] in seconds of the stretch; tempo_bpm, 0 for unknown; onsets f32 [F]: how suddenly it gets louder at each frame, none
    without sound."""

    rows: np.ndarray
    fps: float
    spec: str
    offset_s: float = 0.0
    beats_s: np.ndarray = NONE
    downbeats_s: np.ndarray = NONE
    tempo_bpm: float = 0.0
    onsets: np.ndarray = NONE

    def part(self, first: int, count: int, fps: Fraction) -> "Music":
        """The music of `count` frames from frame `first` of the stretch."""
        start, end = float(first / fps), float((first + count) / fps)
        low, offset = _row_before(start - self.offset_s, self.fps)
        stop = low + int(np.ceil((end - start) * self.fps)) + (2 if offset else 0)
        inside = [times[(times >= start) & (times < end)] - np.float32(start) for times in (self.beats_s, self.downbeats_s)]
        rows, onsets = self.rows[low:stop], self.onsets[first : first + count]
        return self._replace(rows=rows, offset_s=offset, beats_s=inside[0], downbeats_s=inside[1], onsets=onsets)


def hear(source: Source, first: int, count: int, fps: Fraction, spec: str) -> Music | None:
    """The music of `count` frames from frame `first` of a source; None where there is none, or it is silent.

    fps: frames a second. spec: of audio/features.py.

    Raises:
      UserError: a file of sound or features that cannot be read, or that does not belong to this source.
    """
    path = source.music or (source.path if source.is_video and probe(source.path).has_audio else None)
    before = min(first, int(CONTEXT * fps))
    start, seconds = float((first - before) / fps), float((before + count) / fps) + CONTEXT
    audio = NONE if path is None else read_audio(path, FEATURE_RATE, start, seconds)
    silent = np.abs(audio).max(initial=0.0) < 10 ** (SILENCE_DB / 20)
    if silent:
        return None if source.features is None else _given(source, first, count, fps)
    beats = track_beats(audio, FEATURE_RATE)
    if source.features is None:
        rows = features(audio, FEATURE_RATE, fps, spec, beats=beats)[before : before + count]
        music = Music(rows.astype(np.float16), float(fps), f"{spec}@{float(fps):g}")
    else:
        music = _given(source, first, count, fps)
    began, ended = float(before / fps), float((before + count) / fps)
    inside = [
        (times[(times >= began) & (times < ended)] - began).astype(np.float32)
        for times in (beats, find_downbeats(audio, FEATURE_RATE, beats))
    ]
    tempo = 60 / float(np.median(np.diff(beats))) if len(beats) > 1 else 0.0
    onsets = onset_envelope(audio, FEATURE_RATE, (np.arange(count) + before) / float(fps))
    return music._replace(beats_s=inside[0], downbeats_s=inside[1], tempo_bpm=tempo, onsets=onsets)


def _given(source: Source, first: int, count: int, fps: Fraction) -> Music:
    """The stretch's rows of the features that lie beside a source: one file of all rows, or one for each frame."""
    if isinstance(source.features, dict):
        return _row_a_frame(source, first, count, fps)
    path = source.features
    rows = _array(path)
    spec, rate = _about(path, rows)
    length, expected = len(rows) / rate, _seconds(source)
    if expected is not None and abs(length - expected) > TOLERANCE:
        raise UserError(
            f"{path}: {len(rows)} rows at {rate:g} a second are {length:.2f} s, but the clip has {expected:.2f} s; extract the features of "
            "this very clip again, or state their rate in a JSON file beside them"
        )
    low, offset = _row_before(float(first / fps), rate)
    stop = low + int(np.ceil(float(count / fps) * rate)) + 2
    return Music(np.asarray(rows[low:stop], np.float16), rate, f"{spec}@{rate:g}", offset)


def _row_before(seconds: float, rate: float) -> tuple[int, float]:
    """(the last row at or before a time, its time minus that time)."""
    row = int(seconds * rate + 1e-6)
    return row, row / rate - seconds


def _row_a_frame(source: Source, first: int, count: int, fps: Fraction) -> Music:
    """One file of features a frame; zeros in the gaps of the folder."""
    files, begin = source.features, min(source.frames)
    if fps != source.fps:
        raise UserError(
            f"{next(iter(files.values())).parent}: one file of features a frame goes with the frames' own rate alone; "
            f"prepare with --fps {float(source.fps):g}"
        )
    rows = {number: _array(files[begin + number]).reshape(-1) for number in range(first, first + count) if begin + number in files}
    widths = {len(row) for row in rows.values()}
    if len(widths) > 1:
        raise UserError(f"{source.path}: rows of music_features have different lengths: {sorted(widths)}")
    table = np.zeros((count, *widths), np.float16)
    for number, row in rows.items():
        table[number - first] = row
    return Music(table, float(fps), f"frames{table.shape[1]}@{float(fps):g}")


def _array(path: Path) -> np.ndarray:
    try:
        rows = np.load(path, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot read the features ({error}); expected a .npy file of numbers") from error
    if rows.dtype.kind not in "fiu" or rows.ndim > 2 or not rows.size:
        raise UserError(f"{path}: {rows.dtype} {list(rows.shape)}; expected rows of numbers [T,F]")
    return rows


def _about(path: Path, rows: np.ndarray) -> tuple[str, float]:
    """(what a file's features are, rows a second): a JSON file of its name says it; 4800 numbers a row are Jukebox's, 30 a second."""
    described = path.with_suffix(".json")
    if described.is_file():
        try:
            about = json.loads(described.read_text())
            spec, rate = str(about["spec"]), float(about["fps"])
            if not 0 < rate < np.inf:
                raise ValueError(f"fps {rate}")
            return spec, rate
        except (ValueError, KeyError, TypeError) as error:
            expected = '{"spec": "jukebox4800", "fps": 30}'
            raise UserError(f"{described}: expected {expected}: what the rows of {path.name} are, and how many a second") from error
    if rows.ndim == 2 and rows.shape[1] == 4800:
        return JUKEBOX, 30.0
    raise UserError(
        f'{path}: rows of {rows.shape[-1]} numbers of unknown kind; say what they are in {described.name}: {{"spec": "mert768", "fps": 75}}'
    )


def _seconds(source: Source) -> float | None:
    if source.is_video:
        return probe(source.path).seconds
    return None if not source.frames else (max(source.frames) - min(source.frames) + 1) / float(source.fps)
