"""What a user's folder holds: which layout it has, which clips are in it, and what is wrong with those that cannot be used.

Nothing is decoded here: names alone are read, so that a folder of thousands of clips is understood, or refused, in seconds.
What lies inside a clip's folder is read by clip_folder.py, AIST++'s annotations by aist.py.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from champ_jax.data.media import AUDIO_SUFFIXES, VIDEO_SUFFIXES, in_order
from champ_jax.data.prepare.aist import find_sequences
from champ_jax.data.prepare.clip_folder import clip_folders, read_clip_folder
from champ_jax.data.prepare.source import Source, beside, inside, license_of, source_name
from champ_jax.data.records import splits_of
from champ_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Found:
    """A folder as understood: its layout, the reason for thinking so, its sources by name, and {name: what is wrong} of the rest."""

    layout: str
    why: str
    sources: list[Source]
    refused: dict[str, str]


def find(folder: str | os.PathLike, layout: str = "auto", frames_fps: Fraction = Fraction(30)) -> Found:
    """The clips of a folder, or of a single video file.

    Args:
      layout: "auto" tells it by the names in the folder; else one of `LAYOUTS`.
      frames_fps: frames a second of folders of frames, in which nothing says it.

    Raises:
      UserError: there is no such folder, its layout is not to be told, or not one clip in it can be used.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"{folder}: there is no such folder or file")
    if layout == "auto":
        layout, why = recognise(folder)
    elif layout in LAYOUTS:
        why = "you said so"
    else:
        raise UserError(f"layout {layout!r}: expected auto or one of {', '.join(LAYOUTS)}")
    sources, refused = LAYOUTS[layout](folder)
    sources = [dataclasses.replace(source, fps=frames_fps) if source.frames else source for source in sources]
    sources.sort(key=lambda source: in_order(source.name))
    if not sources:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:5])
        raise UserError(f"{folder}: not one clip of the layout '{layout}' can be used. {reasons or EXPECTED[layout]}")
    return Found(layout, why, sources, refused)


def recognise(folder: Path) -> tuple[str, str]:
    """(layout, why) of a folder. Raises UserError, with what every layout looks like, where none fits."""
    if folder.is_file():
        if folder.suffix.lower() in VIDEO_SUFFIXES:
            return "videos", f"{folder.name} is a video file"
        raise UserError(f"{folder}: expected a folder, or a video file ({', '.join(VIDEO_SUFFIXES)})")
    if (folder / "dataset_info.json").is_file():
        return "records", "dataset_info.json is there, which only a set of records has"
    if _annotations(folder):
        return "aist", f"{_annotations(folder).relative_to(folder)}/ holds keypoints of AIST++"
    clips = clip_folders(folder)
    for layout, sign in (("p00002", "poses"), ("champ", ("semantic_map", "normal", "depth", "dwpose"))):
        for clip in clips:
            signs = [name for name in ((sign,) if isinstance(sign, str) else sign) if (clip / name).is_dir()]
            if signs:
                return layout, f"{clip.relative_to(folder.parent)}/ holds {', '.join(f'{name}/' for name in signs)}"
    if clips:
        return "tiktok", f"{clips[0].relative_to(folder.parent)}/ holds numbered frames without guidance maps"
    videos, _ = _files(folder, VIDEO_SUFFIXES)
    if videos:
        return "videos", f"{videos[0].relative_to(folder.parent)} is a video file"
    layouts = "\n".join(f"  {name}: {text}" for name, text in EXPECTED.items())
    raise UserError(f"{folder}: neither videos nor frames nor records are in it. The layouts that can be read:\n{layouts}")


def _files(folder: Path, suffixes: tuple[str, ...]) -> tuple[list[Path], dict[str, str]]:
    """(the files below a folder with these suffixes, in order, without hidden ones; {link: why it is left out} of links out of it)."""
    root, found, links = folder.resolve(), [], {}
    for place, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        paths = [Path(place) / name for name in files if not name.startswith(".") and Path(name).suffix.lower() in suffixes]
        found += [path for path in paths if inside(path, root)]
        outside = [path for path in (*paths, *(Path(place) / name for name in names)) if path.is_symlink() and not inside(path, root)]
        links |= {str(path.relative_to(folder)): "is a link to a place elsewhere; put the files themselves here" for path in outside}
    return sorted(found, key=lambda path: in_order(str(path.relative_to(folder)))), links


def _videos(folder: Path) -> tuple[list[Source], dict[str, str]]:
    root = folder if folder.is_dir() else folder.parent
    sources: dict[str, Source] = {}
    paths, refused = _files(folder, VIDEO_SUFFIXES) if folder.is_dir() else ([folder], {})
    for path in paths:
        name = source_name(path, root)
        if name in sources:
            refused[str(path.relative_to(root))] = f"has the name of {sources[name].path.relative_to(root)}; rename one of them"
            continue
        parent = path.parent
        sources[name] = Source(
            name=name,
            layout="videos",
            path=path,
            keypoints=beside(path, (".npz",), root),
            music=beside(path, AUDIO_SUFFIXES, root),
            features=beside(path, (".npy",), root),
            subject=name if parent == root else source_name(parent, root),
            license=license_of(parent, root),
        )
    return list(sources.values()), refused


def _clip_folders(folder: Path, layout: str) -> tuple[list[Source], dict[str, str]]:
    sources, refused = [], {}
    for clip in clip_folders(folder):
        try:
            sources.append(read_clip_folder(clip, folder, layout))
        except UserError as error:
            refused[source_name(clip, folder)] = str(error)
    return sources, refused


def _annotations(folder: Path) -> Path | None:
    for place in (folder, folder / "annotations", folder / "aist_plusplus_final"):
        if any((place / "keypoints2d").glob("*.pkl")):
            return place / "keypoints2d"
    return None


def _aist(folder: Path) -> tuple[list[Source], dict[str, str]]:
    annotations = _annotations(folder)
    return find_sequences(annotations, folder) if annotations else ([], {})


def _records(folder: Path) -> tuple[list[Source], dict[str, str]]:
    return [Source(name=split, layout="records", path=folder, part=split) for split in splits_of(folder)], {}


LAYOUTS: dict[str, Callable[[Path], tuple[list[Source], dict[str, str]]]] = {
    "videos": _videos,
    "champ": functools.partial(_clip_folders, layout="champ"),
    "p00002": functools.partial(_clip_folders, layout="p00002"),
    "tiktok": functools.partial(_clip_folders, layout="tiktok"),
    "aist": _aist,
    "records": _records,
}
EXPECTED = {
    "videos": "NAME.mp4 (or mov, mkv, webm, avi ...), beside it at will NAME.npz (keypoints), NAME.wav (music), NAME.npy (features)",
    "champ": "PART/CLIP/images/*.png with depth/, normal/, semantic_map/ and mask/, dwpose/ beside it: the same names in each",
    "p00002": "SUBJECT/images/frame_N.png with poses/ and faces/, keypoints.npz or music_features/ beside it",
    "tiktok": "CLIP/images/*.png or CLIP/*.png: numbered frames, with masks/ at will",
    "aist": "keypoints2d/*.pkl of AIST++, with splits/ and ignore_list.txt, and songs as music/mBR0.wav",
    "records": "dataset_info.json and its shards, as prepare writes them",
}
"""What each layout looks like, for messages and help."""
