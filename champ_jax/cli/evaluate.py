"""`champ-jax evaluate`: generated videos and dances against the true ones, and a report of it."""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from champ_jax.cli.prepare import share


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score generated videos and dances, and write a report",
        description="Scores generated clips against the true ones and writes report.html, results.json, metrics.csv, clips.csv and "
        "metrics.tex. Clips belong together by their names: NAME.mp4 or a folder NAME with images in each of the folders; motion "
        "NAME.npz, music NAME.wav or NAME.json with beats_s. What is not given is not judged, and the report says so.",
        epilog="example: champ-jax evaluate --generated out/ --reference truth/ --weights metric_weights/ --out runs/eval. "
        "All metrics, and the files that --weights wants, are in docs/evaluation.md.",
    )
    folders = parser.add_argument_group("what is judged")
    folders.add_argument("--generated", type=Path, metavar="DIR", help="generated videos")
    folders.add_argument("--reference", type=Path, metavar="DIR", help="the true videos")
    folders.add_argument("--references", type=Path, metavar="IMAGES", help="the photos: a folder, or one image for all")
    folders.add_argument("--motion", type=Path, metavar="DIR", help="motion of the generated clips, as champ-jax dance leaves it")
    folders.add_argument("--reference-motion", type=Path, metavar="DIR", help="the true or driving motion")
    folders.add_argument("--music", type=Path, metavar="DIR", help="songs or beats: a folder, or one file for all")
    folders.add_argument("--flow", type=Path, metavar="DIR", help="exact optical flow of the true videos, NAME.npz; estimated without")
    folders.add_argument("--run", dest="training", type=Path, metavar="DIR", help="a training run, for its efficiency")
    how = parser.add_argument_group("how")
    how.add_argument("--protocol", choices=("strict", "disco-compat"), default="strict", help="disco-compat reproduces published tables")
    how.add_argument("--weights", type=Path, metavar="DIR", help="files of the networks that metrics look through")
    how.add_argument("--faces", default="", metavar="MODEL", help="for identity: dlib, or a folder with a detector and an ArcFace (ONNX)")
    how.add_argument("--estimator", default="", metavar="MODEL", help="of poses in the generated frames: mediapipe, or a folder of DWPose")
    how.add_argument("--size", metavar="HxW", help="scale all frames to this size first")
    how.add_argument("--fps", type=float, help="of folders of frames, and of motion that does not say it")
    how.add_argument("--baseline", type=Path, metavar="DIR", help="--out of another evaluation of the same clips, to compare with")
    how.add_argument("--shard", type=share, default=(0, 1), metavar="K/N", help="judge part K (from 0) of N; the last of them "
                     "to end writes the report")  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, metavar="REPORT", help="folder for the report")
    parser.add_argument("--json", action="store_true", help="print the metrics as a JSON object")
    return parser


def run(args: argparse.Namespace) -> int:
    """Judges, writes, and prints the table."""
    from champ_jax.cli.progress import progress
    from champ_jax.cli.sampling import read_size
    from champ_jax.evaluate.efficiency import of_run
    from champ_jax.evaluate.files import join_parts, part_path, read_part, read_results, write_part, write_results
    from champ_jax.evaluate.folders import Folders, find_clips
    from champ_jax.evaluate.judge import judge_clips, open_judge
    from champ_jax.evaluate.report import write_report
    from champ_jax.evaluate.summary import summarise

    size, folders = read_size(args.size), (args.generated, args.reference, args.references, args.motion, args.reference_motion)
    clips = find_clips(Folders(*folders, music=args.music, flow=args.flow, size=size, fps=args.fps))
    baseline = read_results(args.baseline) if args.baseline else None
    efficiency = of_run(args.training) if args.training else None
    check_out(args.out)
    key = key_of(args, list(clips))
    with open_judge(args.protocol, args.weights, args.faces, args.estimator, args.out / "tracks") as judge:
        with progress("evaluate") as on_progress:
            part = judge_clips(clips, judge, args.shard, on_progress)
        number, count = args.shard
        if count > 1:
            write_part(part_path(args.out, args.shard), part, key)
            paths = [part_path(args.out, (other, count)) for other in range(count)]
            waiting = [path.name for path in paths if not path.is_file()]
            if waiting:
                print(f"part {number}/{count} is done; the report waits for {', '.join(waiting)}", file=sys.stderr)
                return 0
            part = join_parts([read_part(path, key) for path in paths], list(clips))
        results = summarise(part, judge, efficiency)
        write_results(args.out, results)
        report = write_report(args.out, read_results(args.out), clips, baseline)
    if args.json:
        print((args.out / "results.json").read_text())
    else:
        print_table(results)
        print(f"open {report}")
    return 0


def check_out(out: Path) -> None:
    """Makes the folder; UserError when that cannot be."""
    from champ_jax.errors import UserError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error}; give another --out") from error


def key_of(args: argparse.Namespace, names: list[str]) -> str:
    """Names what parts of one evaluation have in common: all that was asked for but the shard."""
    asked = {name: str(value) for name, value in vars(args).items() if name not in ("run", "shard", "json", "overrides", "command")}
    return hashlib.sha256(json.dumps([asked, names], sort_keys=True).encode()).hexdigest()[:16]


def print_table(results: dict) -> None:
    """The metrics that have a value."""
    from champ_jax.evaluate.cells import facts, shown

    print(facts(results))
    print(f"{'':40}{'value':>12}{'95 % interval':>26}{'real':>12}{'n':>7}")
    for row in results["metrics"]:
        if row["n"]:
            name = row["name"]
            interval = "" if row["low"] is None else f"{shown(name, row['low'])} to {shown(name, row['high'])}"
            print(f"{row['title']:40}{shown(name, row['value']):>12}{interval:>26}{shown(name, row['real']):>12}{row['n']:>7}")
    notes: dict[str, list[str]] = {}
    for row in results["metrics"]:
        if row["n"] and row["note"]:
            notes.setdefault(row["note"], []).append(row["title"])
    for note, titles in notes.items():
        more = f" and {len(titles) - 4} more" if len(titles) > 4 else ""
        print(f"note: {note} ({', '.join(titles[:4])}{more})", file=sys.stderr)
    empty = sum(not row["n"] for row in results["metrics"])
    print(f"{empty} metrics were not measured: the report says why" if empty else "all metrics were measured")
