"""Clips in folders: what belongs together by its name, opened when it is judged; mistakes are named before anything is."""

import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from champ_jax.audio.beats import track_beats
from champ_jax.audio.load import load_audio
from champ_jax.data.media import AUDIO_SUFFIXES, IMAGE_SUFFIXES, VIDEO_SUFFIXES, in_order, probe, read_frames, read_image
from champ_jax.data.pose_files import read_keypoints
from champ_jax.errors import UserError
from champ_jax.evaluate.clips import Clip, Flow, Frames, Motion

SIDE_FILES = (".skeleton", ".motion", ".made")
"""What our own commands put beside a video NAME.mp4 and is none of its own: NAME.skeleton.mp4, NAME.motion.npz, NAME.made.json."""


@dataclass(frozen=True)
class Folders:
    """Where clips are found; each but the first one or two is optional. size: (H, W) to which frames are scaled. fps: of folders
    of frames, and of motion that does not say it."""

    generated: Path | None = None
    reference: Path | None = None
    photos: Path | None = None
    motion: Path | None = None
    reference_motion: Path | None = None
    music: Path | None = None
    flow: Path | None = None
    size: tuple[int, int] | None = None
    fps: float | None = None


def find_clips(folders: Folders) -> dict[str, Callable[[], Clip]]:
    """{name: opens the clip} of all clips in the folders, which belong together by their names.

    A clip is NAME.mp4 (or another video) or a folder NAME with images; its motion NAME.npz or a folder with OpenPose's JSON files,
    its music NAME.wav (or another sound) or NAME.json with beats_s; its photo NAME.png. One file of music or one photo serves all.

    Raises:
      UserError: a folder is missing or empty, or clips lack what the others have, which it lists; fps is no rate.
    """
    if folders.fps is not None and not 0 < folders.fps < math.inf:
        raise UserError(f"--fps is {folders.fps:g}: give frames a second, such as 24")
    base = folders.generated or folders.motion
    if base is None:
        raise UserError("nothing to evaluate: give a folder of generated videos, of motion, or both")
    main = _entries(base, _is_video if folders.generated else _is_motion, "videos or folders of frames" if folders.generated else "motion")
    beside = {
        "reference": (folders.reference, _is_video),
        "photo": (folders.photos, _is_image),
        "motion": (folders.motion if folders.generated else None, _is_motion),
        "reference motion": (folders.reference_motion, _is_motion),
        "music": (folders.music, _is_music),
        "flow": (folders.flow, lambda path: path.suffix == ".npz"),
    }
    found: dict[str, dict[str, Path]] = {}
    for what, (folder, fits) in beside.items():
        if folder is None:
            continue
        entries = _entries(folder, fits, what)
        if what in ("photo", "music") and len(entries) == 1:
            entries = dict.fromkeys(main, next(iter(entries.values())))
        missing = sorted(main.keys() - entries.keys(), key=in_order)
        if missing:
            shown = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
            raise UserError(
                f"{folder}: no {what} for {len(missing)} of the {len(main)} clips in {base}: {shown}. "
                f"Names have to be the same, as in {main[missing[0]].name} and {missing[0]}{_example(what)}"
            )
        found[what] = entries
    return {
        name: lambda name=name: _open_clip(name, main[name], {what: entries[name] for what, entries in found.items()}, folders)
        for name in sorted(main, key=in_order)
    }


def _example(what: str) -> str:
    return {"reference": ".mp4", "photo": ".png", "music": ".wav"}.get(what, ".npz")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES or path.is_dir() and any(_is_image(file) for file in path.iterdir())


def _is_motion(path: Path) -> bool:
    return path.suffix == ".npz" or path.is_dir() and any(path.glob("*.json"))


def _is_music(path: Path) -> bool:
    return path.suffix.lower() in (*AUDIO_SUFFIXES, ".json")


def _entries(folder: Path, fits: Callable[[Path], bool], what: str) -> dict[str, Path]:
    """{name: file or folder} of what fits in a folder, or of the one file that is given in its place."""
    if not folder.exists():
        raise UserError(f"{folder}: there is no such folder")
    paths = [folder] if folder.is_file() else sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    entries: dict[str, Path] = {}
    for path in paths:
        name = path.name if path.is_dir() else path.stem
        side = Path(name).suffix in SIDE_FILES
        if not fits(path) or side and not (what.endswith("motion") and name.endswith(".motion")):
            continue
        name = name.removesuffix(".motion")
        if name in entries and what != "music":
            raise UserError(f"{folder}: {entries[name].name} and {path.name} are the same clip; remove one of them")
        # Beats that are given are surer than beats that are heard.
        if name not in entries or path.suffix == ".json":
            entries[name] = path
    if not entries:
        raise UserError(f"{folder}: no {what} in it")
    return entries


def _open_clip(name: str, main: Path, beside: dict[str, Path], folders: Folders) -> Clip:
    motion_path = beside.get("motion") or (None if folders.generated else main)
    fps = _fps_of(main, folders.fps) if folders.generated else 0.0
    size = folders.size
    given = {
        "generated": _stream(main, fps, size) if folders.generated else None,
        "reference": _stream(beside["reference"], fps, size) if "reference" in beside else None,
        "photo": _scaled(read_image(beside["photo"]), size) if "photo" in beside else None,
    }
    frame = _frame_size(main, given["generated"]) if given["generated"] else None
    motion = _read_motion(motion_path, frame, folders.fps or fps) if motion_path else None
    truth = _read_motion(beside["reference motion"], frame, folders.fps or fps) if "reference motion" in beside else None
    beats = read_beats(beside["music"]) if "music" in beside else None
    flow = _read_flow(beside["flow"]) if "flow" in beside else None
    made = _read_made(main.with_suffix(".made.json")) if folders.generated and main.is_file() else {}
    return Clip(name, fps, **given, motion=motion, reference_motion=truth, beats=beats, flow=flow, made=made)


def _read_made(path: Path) -> dict[str, Any]:
    """What our own commands say of how a video was made; nothing for videos of others."""
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it") from error


def _fps_of(path: Path, fps: float | None) -> float:
    if path.is_dir():
        if not fps:
            raise UserError(f"{path}: a folder of frames does not say how many a second they are; give --fps")
        return fps
    return float(probe(path).fps)


def _stream(path: Path, fps: float, size: tuple[int, int] | None) -> Frames:
    """The frames of a video file, or of a folder of images, at `fps` frames a second."""
    if path.is_dir():
        files = sorted((file for file in path.iterdir() if _is_image(file)), key=lambda file: in_order(file.stem))
        return lambda: (_scaled(read_image(file), size) for file in files)
    return lambda: (_scaled(frame, size) for frame in read_frames(path, Fraction(fps).limit_denominator(1001)))


def _frame_size(path: Path, video: Frames) -> tuple[int, int]:
    """(H, W) of a video's first frame."""
    first = next(video(), None)
    if first is None:
        raise UserError(f"{path}: it has no frames; remove it, or make it again")
    return first.shape[:2]


def _scaled(frame: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """u8 [H,W,3] scaled to `size` with smoothing; what is of that size already is not touched."""
    if size is None or frame.shape[:2] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.LANCZOS))


def _read_motion(path: Path, frame: tuple[int, int] | None, fps: float) -> Motion:
    """A track of keypoints, or an .npz file with positions [T,24,3] of SMPL's joints and fps."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as held:
                if "positions" in held:
                    positions = np.asarray(held["positions"], np.float64)
                    if positions.ndim != 3 or positions.shape[1:] != (24, 3) or len(positions) < 4 or not np.isfinite(positions).all():
                        raise UserError(f"{path}: positions {list(positions.shape)}; expected [T,24,3] of at least 4 frames, finite")
                    return Motion(_rate(path, float(held["fps"]) if "fps" in held else None, fps), positions=positions)
                size = tuple(int(side) for side in held["size"]) if "size" in held else frame
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if path.is_dir():
        size = frame
    if size is None:
        how = "give its videos with --generated, or an .npz file" if path.is_dir() else "put its size (height, width) into the file"
        raise UserError(f"{path}: keypoints are in pixels of a frame of unknown size; {how}")
    keypoints, confidence, rate = read_keypoints(path, frame or size)
    if len(keypoints) < 4:
        raise UserError(f"{path}: {len(keypoints)} frames of motion; at least 4 are needed")
    return Motion(_rate(path, rate, fps), keypoints, confidence, frame or size)


def _rate(path: Path, own: float | Fraction | None, fps: float) -> float:
    """Frames a second: what a file says of itself, else `fps`, which is 0 where nothing is known."""
    if own is not None and not 0 < own < math.inf:
        raise UserError(f"{path}: its fps is {own:g}; put frames a second, above 0, into the file, or take fps out and give --fps")
    if own is None and not fps:
        raise UserError(f"{path}: it does not say how many frames a second it has; give --fps, or put fps into the file")
    return float(fps if own is None else own)


def read_beats(path: Path) -> np.ndarray:
    """f64 [n] seconds: beats_s of a JSON file, or the beats heard in a file of sound; UserError when there are none."""
    if path.suffix == ".json":
        try:
            beats = np.asarray(json.loads(path.read_text())["beats_s"], np.float64).reshape(-1)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f'{path}: no beats ({error!r}); expected {{"beats_s": [seconds, ...]}}') from error
    else:
        beats = np.asarray(track_beats(*load_audio(path)), np.float64)
    if len(beats) < 2 or not np.isfinite(beats).all():
        raise UserError(f"{path}: {len(beats)} beats; at least 2 are needed to judge a dance")
    return np.sort(beats)


def _read_flow(path: Path) -> Flow:
    try:
        with np.load(path, allow_pickle=False) as held:
            forward = np.asarray(held["flow"], np.float32)
            seen = np.asarray(held["visible"], bool) if "visible" in held else np.ones(forward.shape[:3], bool)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: no flow ({error!r}); expected flow [F-1,H,W,2] in pixels and, at will, visible [F-1,H,W]") from error
    if forward.ndim != 4 or forward.shape[-1] != 2 or seen.shape != forward.shape[:3]:
        raise UserError(f"{path}: flow {list(forward.shape)}, visible {list(seen.shape)}; expected [F-1,H,W,2] and [F-1,H,W]")
    return Flow(forward, seen)


def find_tracks(out: Path, clip: Clip) -> dict[str, Motion]:
    """{"generated", "reference": motion} to draw over a clip's frames: as estimated during the evaluation in `out`, or as given."""
    estimated = out / "tracks" / f"{clip.name}.motion.npz"
    own = _read_motion(estimated, None, clip.fps) if estimated.is_file() else clip.motion
    found = {"generated": own, "reference": clip.reference_motion}
    return {view: motion for view, motion in found.items() if motion is not None}
