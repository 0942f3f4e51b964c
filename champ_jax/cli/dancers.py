"""`champ-jax dancers`: renders a data set of dancing people, as records."""

import argparse
import sys
from pathlib import Path

from champ_jax.cli.progress import progress
from champ_jax.errors import RESUMABLE, UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "dancers",
        help="render a data set of dancing people",
        description="Renders people (Anny body, motion capture, composed songs) with exact ground truth into records. "
        "An interrupted run continues when it is started again with the same options.",
        epilog="example: champ-jax dancers --out data/dancers --split train --identities 200 --clips 3 --seconds 2 --workers 2",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument(
        "--split",
        default="train",
        choices=("train", "motion", "test", "test_motion"),
        help="train: frames; motion: dances without pixels; test, test_motion: people, songs and a motion that the "
        "others never meet (default: train)",
    )
    parser.add_argument("--identities", type=int, default=8, help="number of people (default: 8)")
    parser.add_argument("--clips", type=int, default=1, help="clips of each person (default: 1)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a clip, at most 15 (default: 2)")
    parser.add_argument("--fps", type=int, default=24, help="motion frames a second (default: 24)")
    parser.add_argument("--stride", type=int, default=2, help="draw every n-th motion frame (default: 2)")
    parser.add_argument("--size", type=int, default=96, help="pixels, square (default: 96)")
    parser.add_argument("--azimuth", type=float, default=180.0, help="cameras stand within this many degrees of the front (default: 180)")
    parser.add_argument(
        "--turn", type=float, default=0.0, help="degrees that each person turns in a clip, 360 to be seen from all sides (default: 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, other people and scenes (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--music-spec", default="rich192", choices=("rich192", "stack4800", "fact35"),
                        help="features of the songs (default: rich192)")  # fmt: skip
    parser.add_argument("--no-face", action="store_true", help="leave out face embeddings, which need dlib")
    return parser


def run(args: argparse.Namespace) -> int:
    """Renders one split; returns 0, or 75 when it was interrupted."""
    from importlib.util import find_spec

    if find_spec("numba") is None:
        raise UserError("rendering needs the extra 'dancers': run `pip install -e '.[dancers]'` and `pip install --no-deps anny==0.6.2`")
    from champ_jax.data.dancers.dataset import make_dataset, plan_split

    plans = plan_split(
        args.split, args.identities, args.clips, args.seconds, args.fps, args.stride, args.size, args.azimuth, args.seed,
        not args.no_face, args.music_spec, args.turn,
    )  # fmt: skip
    try:
        with progress(f"rendering {args.split}") as on_progress:
            count = make_dataset(args.out, args.split, plans, args.workers, on_progress)
    except KeyboardInterrupt:
        print(f"interrupted: the same command goes on from {args.out}", file=sys.stderr)
        return RESUMABLE
    print(f"{args.out}: split '{args.split}' with {count} clips of {args.identities} people")
    return 0
