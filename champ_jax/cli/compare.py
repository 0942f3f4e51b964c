"""`champ-jax compare`: evaluations of the same clips side by side, with what is more than chance."""

import argparse
import sys
from pathlib import Path


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "compare",
        help="put evaluations side by side",
        description="Puts evaluations side by side: each run's metrics, their differences to the first run on the clips that both have, "
        "and whether these are more than chance (a permutation test over clips). Writes compare.html, compare.csv and compare.json.",
        epilog="example: champ-jax compare runs/eval_old runs/eval_new --out runs/compare",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="--out folders of champ-jax evaluate; the first is the baseline")
    parser.add_argument("--out", type=Path, default=Path("compare"), metavar="DIR", help="folder for the comparison (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the comparison as a JSON object")
    return parser


def run(args: argparse.Namespace) -> int:
    """Reads, compares, writes and prints."""
    from champ_jax.evaluate.compare import compare_runs, write_comparison

    comparison = compare_runs(args.runs)
    path = write_comparison(args.out, comparison)
    if args.json:
        print((args.out / "compare.json").read_text())
    else:
        print_comparison(comparison)
        print(f"open {path}")
    return 0


def print_comparison(comparison: dict) -> None:
    """The table for a terminal; a star marks what is more than chance."""
    from champ_jax.evaluate.cells import SIGNIFICANT, shown

    names = [run["name"] for run in comparison["runs"]]
    print(f"{'':40}" + "".join(f"{name[:22]:>24}" for name in names))
    for metric in comparison["metrics"]:
        cells = []
        for value, change in zip(metric["values"], metric["changes"]):
            star = "*" if change is not None and change["p"] < SIGNIFICANT else " "
            cells.append(f"{shown(metric['name'], value)}{star}")
        print(f"{metric['title']:40}" + "".join(f"{cell:>24}" for cell in cells))
    print(f"* differs from {names[0]} by more than chance (p < {SIGNIFICANT})")
    for warning in comparison["warnings"]:
        print(f"note: {warning}", file=sys.stderr)
