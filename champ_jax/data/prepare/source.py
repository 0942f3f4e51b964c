"""One source of clips in a user's folder, and how its name, licence and the files beside it are found by names alone.

Links that lead out of the folder are not followed: it may come from anybody.
"""

import dataclasses
import re
from fractions import Fraction
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Source:
    """One video or one folder of frames, with what belongs to it.

    name: unique in its folder, and the start of the ids of its clips. path: the video file, the folder of the clip, or the file of
    annotations. frames: {number of the frame: image file}, for folders. fps: of those, and of annotations. maps: {kind: {number:
    image file}} of "depth", "normal", "semantic_map", "dwpose" and "mask". keypoints: a file of poses, or a folder with one for each
    frame. music: a sound file. features: a file, or {number: file}, of music features. subject: who is seen; clips of one subject
    stay in one split.
    part: the split that the layout itself names, or "".
    """

    name: str
    layout: str
    path: Path
    frames: dict[int, Path] = dataclasses.field(default_factory=dict)
    fps: Fraction | None = None
    maps: dict[str, dict[int, Path]] = dataclasses.field(default_factory=dict)
    keypoints: Path | None = None
    music: Path | None = None
    features: Path | dict[int, Path] | None = None
    subject: str = ""
    license: str = ""
    part: str = ""

    @property
    def is_video(self) -> bool:
        return self.layout == "videos"


def source_name(path: Path, folder: Path) -> str:
    """The name of what lies at `path` below `folder`: its places joined by '_', free of what shells and file systems mind."""
    relative = path.relative_to(folder) if path != folder else Path(folder.resolve().name)
    words = [re.sub(r"[^\w.-]+", "_", part).strip("._-") for part in relative.with_suffix(relative.suffix if path.is_dir() else "").parts]
    return "_".join(word for word in words if word) or "clip"


def inside(path: Path, root: Path) -> bool:
    """Whether a path lies in a folder also when links are followed."""
    return path.resolve().is_relative_to(root.resolve())


def beside(path: Path, suffixes: tuple[str, ...], root: Path) -> Path | None:
    """The file of this name with one of these suffixes, or None."""
    names = (path.with_suffix(suffix) for suffix in suffixes)
    return next((found for found in names if found.is_file() and inside(found, root)), None)


def license_of(folder: Path, root: Path) -> str:
    """The text of the nearest `license.txt` from a clip's folder up to the root; "" without one."""
    for place in (folder, *folder.parents):
        for name in ("license.txt", "LICENSE.txt", "LICENSE"):
            if (place / name).is_file() and inside(place / name, root):
                return (place / name).read_text(errors="replace").strip().split("\n\n")[0][:500]
        if place == root:
            return ""
    return ""
