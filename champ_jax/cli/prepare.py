"""`champ-jax prepare`: from a folder of videos or frames to records that training reads, or to a list of what is wrong."""

import argparse
import json
import sys
from fractions import Fraction
from pathlib import Path

from champ_jax.cli.progress import progress
from champ_jax.errors import FAILED, RESUMABLE, UserError

LAYOUTS = ("auto", "videos", "champ", "p00002", "aist", "tiktok", "records")


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "prepare",
        help="make a training set of your own videos",
        description="Reads a folder of videos, or of frames with guidance maps as CHAMP, P00002 and TikTok lay them out, or AIST++'s "
        "annotations, finds the main person's pose, face and music, and writes records for training with a contact sheet. What "
        "cannot be used is left out and named with its reason. A run that was stopped or killed goes on where it was when the same "
        "command is given again.",
        epilog="example: champ-jax prepare videos --out data/mine --workers 4; then champ-jax prepare --check data/mine",
    )
    parser.add_argument("source", nargs="?", type=Path, help="the folder, or one video file")
    parser.add_argument("--out", type=Path, help="folder of the records")
    parser.add_argument("--check", type=Path, metavar="DIR", help="read every clip of prepared records, and say what is wrong with them")
    parser.add_argument("--layout", choices=LAYOUTS, default="auto", help="of the source folder (default: told by the names in it)")
    parser.add_argument(
        "--fps", type=rate, default=Fraction(30), help="frames a second of the records, such as 25 or 30000/1001 (default: 30)"
    )
    parser.add_argument("--frames-fps", type=rate, default=Fraction(30), help="frames a second of folders of frames (default: 30)")
    parser.add_argument("--size", type=int, default=512, help="pixels of a frame's shorter side, never enlarged (default: 512)")
    parser.add_argument("--clip-seconds", type=float, default=10.0, help="longest clip, at most 20 (default: 10)")
    parser.add_argument("--least-seconds", type=float, default=1.0, help="shortest clip (default: 1)")
    parser.add_argument("--estimator", default="mediapipe", help="of poses: mediapipe (launch/pose_env.sh makes its environment), a "
                        "folder with DWPose's ONNX files, or none where keypoints are given (default: mediapipe)")  # fmt: skip
    parser.add_argument(
        "--person", type=int, default=0, metavar="K", help="whom to follow: 0 the most prominent (default), 1 the next, ..."
    )
    parser.add_argument(
        "--faces",
        default="dlib",
        help="face model: dlib, none, or a folder with SCRFD and ArcFace as ONNX files (default: dlib, of the extra 'dancers')",
    )
    parser.add_argument("--maps", action="append", default=[], metavar="KIND=FILE", help="make depth, normal or semantic_map with an "
                        "ONNX model, where the source has none; may be given several times")  # fmt: skip
    parser.add_argument(
        "--music", default="rich192", choices=("rich192", "stack4800", "fact35", "none"), help="features (default: rich192)"
    )
    parser.add_argument("--license", default="", help="of sources beside which no license.txt lies")
    parser.add_argument(
        "--validation",
        type=float,
        default=0.05,
        help="odds of each person to be kept for validation, so that a small set may get nobody (default: 0.05)",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--shard", type=share, default=(0, 1), metavar="I/N", help="do this part of the work alone, 0/4 to 3/4; when "
                        "all are done, the same command without it writes the records")  # fmt: skip
    parser.add_argument("--no-resume", action="store_true", help="do everything again, also what is done already")
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    return parser


def rate(text: str) -> Fraction:
    """Frames a second."""
    try:
        value = Fraction(text).limit_denominator(1001)
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate; expected a number such as 25, 29.97 or 30000/1001") from error
    if not 1 <= value <= 240:
        raise argparse.ArgumentTypeError(f"{text} frames a second; expected 1 to 240")
    return value


def share(text: str) -> tuple[int, int]:
    """(index, count) of "I/N"."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected I/N with I below N, such as 0/4")
    return int(index), int(count)


def run(args: argparse.Namespace) -> int:
    """Prepares or checks; returns 0, 1 when a check found something, 75 when interrupted."""
    if args.check:
        return check(args)
    if not args.source or not args.out:
        raise UserError("prepare needs a folder and --out DIR, or --check DIR; see champ-jax prepare --help")
    try:
        return make(args, settings_of(args))
    except KeyboardInterrupt:
        without = " without --no-resume" if args.no_resume else ""
        print(f"interrupted: the same command{without} goes on from {args.out}", file=sys.stderr)
        return RESUMABLE


def settings_of(args: argparse.Namespace):
    """What the options ask for. Raises UserError where they cannot be."""
    from champ_jax.data.prepare.piece import Settings
    from champ_jax.data.prepare.source import inside

    if args.source.is_dir() and inside(args.out, args.source):
        raise UserError(f"--out {args.out} lies in {args.source} itself, where its files would be taken for clips: give a folder elsewhere")
    if not 0 < 2 * args.least_seconds <= args.clip_seconds <= 20:
        raise UserError(
            f"--clip-seconds {args.clip_seconds:g}, --least-seconds {args.least_seconds:g}: expected at most 20, and at most half of that"
        )
    if args.size < 16 or args.workers < 1 or args.person < 0 or not 0 <= args.validation < 1:
        raise UserError("expected --size 16 or more, --workers 1 or more, --person 0 or more, --validation from 0 to below 1")
    return Settings(
        fps=args.fps,
        size=args.size,
        clip_seconds=args.clip_seconds,
        least_seconds=args.least_seconds,
        estimator=args.estimator,
        person=args.person,
        faces=args.faces,
        maps=tuple(map_model(text) for text in args.maps),
        music=args.music,
        license=args.license,
        validation=args.validation,
    )


def map_model(text: str) -> tuple[str, str]:
    """(kind, file) of "KIND=FILE"."""
    kind, _, path = text.partition("=")
    if not path:
        raise UserError(f"--maps {text}: expected KIND=FILE, such as depth=depth_anything_v2_vits.onnx")
    return kind, path


def make(args: argparse.Namespace, settings) -> int:
    """Does the work and writes records and sheet."""
    from champ_jax.data.prepare.layouts import find
    from champ_jax.data.prepare.run import SPLITS, check_folder, cut, finish, is_done, prepare, publish
    from champ_jax.data.prepare.sheet import statistics, write_sheet
    from champ_jax.data.records import open_records

    say = (lambda text: None) if args.json else (lambda text: print(text, flush=True))
    found = find(args.source, args.layout, args.frames_fps)
    say(
        f"{args.source}: {found.layout} ({found.why}), {len(found.sources)} clips"
        + (f", {len(found.refused)} cannot be used" if found.refused else "")
    )
    for name, reason in found.refused.items():
        say(f"left out {name}: {reason}")
    pieces, refused = cut(found, settings, say)
    if not pieces:
        raise UserError(f"{args.source}: nothing in it can be used")
    check_folder(args.out)
    if not args.no_resume and args.shard[1] == 1 and is_done(pieces, settings, args.out):
        say(f"{args.out} was made of these very files with these settings: nothing to do. --no-resume makes it again")
        return 0
    with progress("preparing") as on_progress:
        prepare(pieces, settings, args.out, args.workers, args.shard, args.no_resume, lambda done, total, _: on_progress(done, total))
    if args.shard[1] > 1:
        without = "--shard and --no-resume" if args.no_resume else "--shard"
        say(f"share {args.shard[0]} of {args.shard[1]} is done; when all are, the same command without {without} writes the records")
        return 0
    outcome = publish(pieces, settings, args.out)
    dropped = {**refused, **outcome.dropped}
    splits = list(outcome.clips)
    figures = {split: statistics(open_records(args.out, split)) for split in splits}
    summary = [f"{split}: " + ", ".join(f"{name} {value}" for name, value in row.items()) for split, row in figures.items()]
    summary += [line for line in [offset_line(outcome.reports)] if line]
    page = write_sheet(args.out, splits, dropped, summary)
    finish(pieces, settings, args.out)
    if args.json:
        print(json.dumps({"splits": figures, "dropped": dropped, "sheet": str(page)}))
        return 0
    for name, reason in outcome.dropped.items():
        say(f"left out {name}: {reason}")
    for line in summary:
        say(line)
    if "validation" not in splits and any(piece.source.part not in SPLITS for piece in pieces):
        say(
            "note: nobody was chosen for validation, which training wants: give a larger --validation, or train with "
            "--config.data.validation_split=train, whose loss says nothing of new people"
        )
    say(f"{len(dropped)} left out; look at {page}")
    say(f"train on it with --config.data.directory={args.out}")
    return 0


def offset_line(reports) -> str:
    """What the clips together say of an offset between sound and picture; "" when they say nothing."""
    import statistics

    from champ_jax.data.prepare.offset import CHANCE

    sure = [report.offset_s for report in reports if report.sure > CHANCE]
    if len(sure) < 5:
        return ""
    middle, spread = statistics.median(sure), statistics.pstdev(sure)
    order = f"{abs(middle) * 1000:.0f} ms {'after' if middle > 0 else 'before'}"
    words = f"music comes {order} the motion (median of {len(sure)} clips, spread {spread * 1000:.0f} ms)"
    return words + ("; if it is the same in all, sound and picture of the videos are not in step" if abs(middle) > 0.08 else "")


def check(args: argparse.Namespace) -> int:
    """Reads every clip of prepared records; 1 when something is wrong with one."""
    from champ_jax.data.prepare.check_records import check_records

    figures, wrong = check_records(args.check)
    if args.json:
        print(json.dumps({"splits": figures, "wrong": wrong}))
        return FAILED if wrong else 0
    for split, row in figures.items():
        print(f"{split}: " + ", ".join(f"{name} {value}" for name, value in row.items()))
    for name, reason in wrong.items():
        print(f"{name}: {reason}")
    print(f"{args.check}: {f'{len(wrong)} clips are wrong' if wrong else 'all clips can be trained on'}")
    return FAILED if wrong else 0
