"""`champ-jax report`: one HTML file from the results in a folder."""

import argparse
from pathlib import Path


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "report",
        help="write report.html of a run",
        description="Collects metrics, curves, frames and videos of a run into one HTML file that needs no other file.",
        epilog="example: champ-jax report runs/quickstart",
    )
    parser.add_argument("directory", type=Path, help="a quickstart's or a training run's folder")
    parser.add_argument("--out", type=Path, help="where to write it (default: report.html in the folder)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Writes the report and says where."""
    from champ_jax.evaluate.run_report import write_run_report

    print(write_run_report(args.directory, args.out))
    return 0
