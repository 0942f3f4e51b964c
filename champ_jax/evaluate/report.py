"""The page of an evaluation: every metric with its interval, beside a baseline; the worst clips first, to look at; dances on the beat."""

import html
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from champ_jax.evaluate import page
from champ_jax.evaluate.catalogue import HIGHER, METRICS, REAL
from champ_jax.evaluate.cells import Results, change_cells, difference, facts, shown, titled, value_cell
from champ_jax.evaluate.chart import chart
from champ_jax.evaluate.clips import Blocks, Clip, Motion
from champ_jax.evaluate.folders import find_tracks
from champ_jax.files import write_text
from champ_jax.infer.video import write_video
from champ_jax.pose.skeleton import BODY, THRESHOLD

REPORT = "report.html"
PLAYERS = 12
SHOWN_FRAMES, SHOWN_HEIGHT = 240, 360
"""Of each player: what a page can hold of a long or large video."""
WORST_BY = ("lpips_alex", "lpips_vgg", "psnr", "pck_10", "beat_corrected", "energy_ratio")
"""What decides which clips are the worst: the first of these that there is."""


def write_report(
    out: Path,
    results: Results,
    clips: Mapping[str, Callable[[], Clip]],
    baseline: Results | None = None,
    name: str = "",
) -> Path:
    """Writes report.html into the folder `out` and returns its path.

    clips: as they were judged, opened once more for the players of the worst. baseline: results of another run of the same clips.
    """
    sections = [
        page.section("Metrics", metric_table(results, baseline), _missing(results)),
        page.section("Clips, the worst first", clip_table(results), *_players(results, clips, out)),
        page.section("Movement and music", *_dances(results)),
        page.section("What it was measured with", _made_with(results)),
    ]
    path = out / REPORT
    write_text(path, page.page(f"Evaluation: {name or out.resolve().name}", facts(results), sections))
    return path


def metric_table(results: Results, baseline: Results | None) -> str:
    """All metrics that have a value; with a baseline, its value, the difference and its p beside each."""
    header = ["metric", "group", "value", "95 % interval", "real", "n", "notes"]
    if baseline is not None:
        header[5:5] = ["baseline", "difference", "p"]
    theirs = {row["name"]: row for row in baseline["metrics"]} if baseline is not None else {}
    rows = []
    for row in results["metrics"]:
        if not row["n"]:
            continue
        name, value = row["name"], row["value"]
        interval = "" if row["low"] is None else f"{shown(name, row['low'])} to {shown(name, row['high'])}"
        title = titled(name)
        real = row["real"] if row["real"] is not None else math.nan
        cells = [title, row["group"], value_cell(name, value), interval, value_cell(name, real)]
        if baseline is not None:
            cells += _against(name, value, theirs.get(name), results, baseline)
        rows.append([*cells, row["n"], "; ".join(filter(None, [row["through"], row["note"]]))])
    return page.table(header, rows, "↑ higher is better, ↓ lower, ≈ as near to the real video's as can be", text=(len(header) - 1,))


def _against(name: str, value: float, other: Mapping | None, results: Results, baseline: Results) -> list[page.Cell]:
    """(baseline, difference, p) of one metric."""
    if other is None or not other["n"]:
        return ["", "", ""]
    found = difference(name, results, baseline)
    change = found.mean if found.n else value - other["value"]
    return [value_cell(name, other["value"]), *change_cells(name, change, found.p)]


def _missing(results: Results) -> str:
    rows = [[row["title"], row["group"], row["note"]] for row in results["metrics"] if not row["n"]]
    if not rows:
        return ""
    listed = page.table(["metric", "group", "why"], rows, text=(2,))
    return f"<details><summary>{len(rows)} metrics were not measured</summary>{listed}</details>"


def worst_first(results: Results) -> tuple[str, list[dict[str, Any]]]:
    """(the metric that decides, records from the worst to the best)."""
    names = [name for name in (*WORST_BY, *METRICS) if any(name in record["values"] for record in results["records"])]
    if not names:
        return "", list(results["records"])
    name = names[0]

    def badness(record: dict[str, Any]) -> float:
        value = record["values"].get(name)
        if value is None:
            return math.inf
        if METRICS[name].better == REAL:
            return -abs(value - record["real"].get(name, value))
        return value if METRICS[name].better == HIGHER else -value

    return name, sorted(results["records"], key=badness)


def clip_table(results: Results) -> str:
    """A row for each clip, the worst first."""
    by, records = worst_first(results)
    names = [name for name in METRICS if any(name in record["values"] for record in records)]
    rows = []
    for record in records:
        values = [record["values"].get(name, math.nan) for name in names]
        rows.append([record["name"], record["frames"], *(value_cell(n, v) for n, v in zip(names, values)), "; ".join(record["notes"])])
    header = ["clip", "frames", *(METRICS[name].title for name in names), "notes"]
    caption = f"in order of {METRICS[by].title}" if by else ""
    return page.table(header, rows, caption, text=(len(header) - 1,))


def _players(results: Results, clips: Mapping[str, Callable[[], Clip]], out: Path) -> list[str]:
    """Players of the worst clips."""
    by, records = worst_first(results)
    players = []
    for record in records[:PLAYERS]:
        clip = clips[record["name"]]()
        if clip.generated is None:
            continue
        data, about = encode_pair(clip, find_tracks(out, clip))
        value = f"{METRICS[by].title} {shown(by, record['values'].get(by))}" if by else ""
        cut = "" if about["frames"] == record["frames"] else f"the first {about['frames']} of {record['frames']} frames; "
        players.append(page.player(record["name"], data, about, f"{value}; {cut}encoded for looking at: scores are of the frames as given"))
    if len(records) > PLAYERS:
        players.append(f"<p class=soft>{PLAYERS} of {len(records)} clips are shown.</p>")
    return players


def encode_pair(clip: Clip, tracks: Mapping[str, Motion]) -> tuple[bytes, dict[str, Any]]:
    """(an mp4 video with generated and reference frames side by side, what the player has to know of it)."""
    rows, size = [], (0, 0)
    for generated, reference in Blocks(clip.generated, clip.reference):
        size = generated.shape[1:3]
        scale = min(1.0, SHOWN_HEIGHT / size[0])
        width, height = (max(2, 2 * round(side * scale / 2)) for side in size[::-1])
        for number in range(len(generated)):
            pair = [generated[number]] if reference is None else [generated[number], reference[number]]
            rows.append(np.concatenate([cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in pair], 1))
        if len(rows) >= SHOWN_FRAMES:
            break
    rows = rows[:SHOWN_FRAMES]
    with tempfile.TemporaryDirectory() as folder:
        write_video(Path(folder) / "pair.mp4", np.stack(rows), clip.fps, min_side=1)
        data = (Path(folder) / "pair.mp4").read_bytes()
    poses = {view: drawn for view, motion in tracks.items() if (drawn := _joints(motion, clip.fps, len(rows), (height, width)))}
    about = {
        "width": width,
        "height": height,
        "frames": len(rows),
        "fps": clip.fps,
        "reference": clip.reference is not None,
        "poses": poses,
    }
    return data, about


def _joints(motion: Motion, fps: float, frames: int, size: tuple[int, int]) -> list | None:
    """[[[x, y] or None for each body joint] for each frame] in pixels of frames of `size`."""
    if motion.keypoints is None or not motion.size:
        return None
    at = np.minimum(np.round(np.arange(frames) * motion.fps / fps).astype(int), len(motion.keypoints) - 1)
    points = motion.keypoints[at][:, BODY] * (np.array(size[::-1]) / np.array(motion.size[::-1]))
    seen = motion.confidence[at][:, BODY] >= THRESHOLD
    return [[[round(float(x), 1), round(float(y), 1)] if sure else None for (x, y), sure in zip(p, s)] for p, s in zip(points, seen)]


def _dances(results: Results) -> list[str]:
    """Energy and beats of each dance, and how its score depends on a shift of the music."""
    parts = []
    for record in worst_first(results)[1][:PLAYERS]:
        if curves := record.get("curves"):
            marks = {"beats of the music": curves["music_beats"], "stops of the movement": curves["motion_beats"]}
            energy = chart(f"{record['name']}: energy, torsos a second", {"": curves["energy"]}, marks, (760, 220), log=False)
            shift = chart("beat alignment over a shift of the music, seconds", {"": curves["shift"]}, {"as it is": [0.0]}, log=False)
            parts.append(page.row([energy, shift]))
    return parts


def _made_with(results: Results) -> str:
    rows = [[name, digest] for name, digest in results["weights"].items()]
    weights = page.table(["file", "SHA-256"], rows) or "<p class=soft>No networks: their metrics are empty.</p>"
    return f"<p class=soft>champ_jax {html.escape(results['champ_jax'])}. {facts(results)}.</p>{weights}"
