"""`champ-jax status`: how a run stands, read from its folder without changing anything there."""

import argparse
import json
from pathlib import Path

from champ_jax.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "status",
        help="how a training run stands",
        description="Reads the folder of a run, also while it trains: step, losses, where the time goes, checkpoints, skipped "
        "batches and records. Changes nothing.",
        epilog="example: champ-jax status runs/b",
    )
    parser.add_argument("workdir", type=Path, help="the --workdir of the run")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints the state of the run."""
    from champ_jax.train.status import read_status

    if not (args.workdir / "config.json").is_file():
        runs = sorted(path.parent.name for path in args.workdir.glob("*/config.json")) if args.workdir.is_dir() else []
        hint = f"; it holds the runs {', '.join(runs)}" if runs else ""
        raise UserError(f"{args.workdir} is no run's folder: it has no config.json{hint}")
    status = read_status(args.workdir)
    if args.json:
        print(json.dumps(status))
        return 0
    for name, value in status.items():
        print(f"{name.replace('_', ' '):<18} {_shown(value)}")
    return 0


def _shown(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(_shown(part) for part in value) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "unknown" if value is None else str(value)
