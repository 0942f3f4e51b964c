"""A clip as a folder of numbered frames with maps beside them: CHAMP's, the user's P00002, TikTok's and UBC's layouts.

Frames belong together by the number in their names, wherever they are: frame_10 comes after frame_9, and depth/0010.png
belongs to images/frame_10.png. What is missing, doubled or left over is named with its file.
"""

import os
import re
from pathlib import Path

from champ_jax.data.media import AUDIO_SUFFIXES, IMAGE_SUFFIXES, in_order
from champ_jax.data.prepare.source import Source, inside, license_of, source_name
from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.errors import UserError

MAPS = {kind: kind for kind in (*GUIDANCE_KINDS, "mask")} | {"normals": "normal", "poses": "dwpose", "masks": "mask"}
"""{name of a folder: what its images are}"""
OTHERS = ("faces", "face_images", "densepose", "music_features", "keypoints", "openpose")
"""Folders of a clip that hold no maps."""
KNOWN = ("images", *MAPS, *OTHERS)


def clip_folders(folder: Path) -> list[Path]:
    """The folders of clips at or below `folder`, in order: those that hold images themselves, or in a folder of a known name.

    Deeper or shallower than a layout says is all the same: CHAMP's own description lacks a level that its code needs.
    """
    found = []
    root = folder.resolve()
    for place, names, files in os.walk(folder):
        names[:] = sorted((name for name in names if not name.startswith(".") and inside(Path(place) / name, root)), key=in_order)
        known = [name for name in names if _known(name)]
        if known and any(_has_images(Path(place) / name) for name in known):
            found.append(Path(place))
            names[:] = [name for name in names if name not in known]
        elif sum(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in files) > 1:
            found.append(Path(place))
    return found


def _known(name: str) -> bool:
    return name.lower() in KNOWN or name.lower().startswith("images")


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(Path(entry.name).suffix.lower() in IMAGE_SUFFIXES for entry in entries)


def read_clip_folder(clip: Path, root: Path, layout: str) -> Source:
    """The clip in a folder.

    Raises:
      UserError: frames are missing, doubled, or not the same in all its folders; the message names the first file and the remedy.
    """
    folders = {name.lower(): clip / name for name in sorted(os.listdir(clip)) if (clip / name).is_dir()}
    images = sorted(name for name in folders if name.startswith("images"))
    if len(images) > 1:
        raise UserError(f"{clip}: {', '.join(f'{name}/' for name in images)} all hold frames; keep one of them in this folder")
    maps = {}
    for name, path in folders.items():
        if name not in MAPS or not _has_images(path):
            continue
        if MAPS[name] in maps:
            raise UserError(f"{path}: there are two folders of {MAPS[name]}; keep one of them")
        maps[MAPS[name]] = numbered(path)
    if images:
        frames = numbered(folders[images[0]])
    elif not maps:
        frames = numbered(clip)
    else:
        names = ", ".join(f"{name}/" for name in folders if name in MAPS)
        raise UserError(
            f"{clip}: images/ is missing; {names} {'is' if len(maps) == 1 else 'are'} there. CHAMP's description leaves it out, its code "
            "needs it: put the frames of the video into images/, with the same names"
        )
    for kind, files in maps.items():
        _check_same(images[0] if images else ".", frames, kind, files)
    given = (clip / name for name in ("keypoints.npz", "keypoints", "openpose"))
    keypoints = next((path for path in given if path.exists() and inside(path, root)), None)
    music = next((path for path in sorted(clip.iterdir()) if path.suffix.lower() in AUDIO_SUFFIXES and inside(path, root)), None)
    name = source_name(clip, root)
    return Source(
        name=name,
        layout=layout,
        path=clip,
        frames=frames,
        maps=maps,
        keypoints=keypoints,
        music=music,
        features=_features(clip, root, frames),
        subject=name,
        license=license_of(clip, root),
    )


def numbered(folder: Path) -> dict[int, Path]:
    """{number: image file} of a folder, by the last number in each name.

    Raises:
      UserError: there are no images, one has no number, or two have the same.
    """
    files: dict[int, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: in_order(path.name)):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        numbers = re.findall(r"\d+", path.stem)
        if not numbers:
            raise UserError(f"{path}: there is no number in this name; name frames 0000.png, 0001.png and so on")
        number = int(numbers[-1])
        if path.is_symlink() and not inside(path, folder):
            raise UserError(f"{path}: is a link to a file elsewhere; put the file itself here")
        if number in files:
            raise UserError(f"{path}: {files[number].name} is frame {number} too; remove one of them")
        files[number] = path
    if not files:
        raise UserError(f"{folder}: there are no frames in it; expected images named 0000.png, 0001.png and so on")
    return dict(sorted(files.items()))


def _check_same(images: str, frames: dict[int, Path], kind: str, files: dict[int, Path]) -> None:
    missing = [number for number in frames if number not in files]
    extra = [number for number in files if number not in frames]
    if not missing and not extra:
        return
    folder = next(iter(files.values())).parent
    what = f"{folder}: has {len(files)} images and {images}/ has {len(frames)}"
    if missing:
        like = frames[missing[0]].name
        raise UserError(f"{what}: frame {missing[0]} ({like}) has no {kind}; render it, or remove the frame from every folder")
    raise UserError(f"{what}: {files[extra[0]].name} has no frame; add it to {images}/, or remove it")


def _features(clip: Path, root: Path, frames: dict[int, Path]) -> Path | dict[int, Path] | None:
    folder = clip / "music_features"
    if not folder.is_dir():
        file = clip / "music_features.npy"
        return file if file.is_file() and inside(file, root) else None
    files = sorted((path for path in folder.glob("*.npy") if inside(path, root)), key=lambda path: in_order(path.name))
    if len(files) == 1:
        return files[0]
    numbers = {int(found[-1]): path for path in files if (found := re.findall(r"\d+", path.stem))}
    missing = [number for number in frames if number not in numbers]
    if files and missing:
        raise UserError(
            f"{folder}: frame {missing[0]} has no features (expected frame_{missing[0]}.npy); {len(numbers)} of {len(frames)} have"
        )
    return numbers or None
