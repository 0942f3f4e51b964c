"""`champ-jax train`: trains the stages that a configuration names."""

import argparse
import json
import tempfile
from pathlib import Path

from champ_jax.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "train",
        help="train from a configuration",
        description="Trains from a configuration file. Stopped with Ctrl-C it saves, exits with 75 and goes on when the "
        "same command is given again.",
        epilog="example: champ-jax train --config configs/stage_b.py --workdir runs/b --config.optim.steps=2000",
    )
    parser.add_argument("--config", required=True, help="a file in configs/, its name, or name:variant; "
                        "change single values with --config.a.b=value")  # fmt: skip
    parser.add_argument("--workdir", required=True, type=Path, help="checkpoints, metrics and samples go here")
    parser.add_argument("--resume", choices=("auto", "never"), default="auto",
                        help="auto: go on from the newest valid checkpoint in the workdir (default); "
                        "never: refuse to start in a workdir that has one")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the figures of the run as one line of JSON")
    parser.add_argument("--multihost", action="store_true", help="join the other processes of a TPU pod, a SLURM job or "
                        "CHAMP_COORDINATOR before anything else")  # fmt: skip
    return parser


def run(args: argparse.Namespace) -> int:
    """Checks the configuration and the workdir, then trains; prints the figures of the run as JSON with --json."""
    from champ_jax.config import load_config, write_record

    config = load_config(args.config, args.overrides)
    make_workdir(args.workdir)
    if args.multihost:
        from champ_jax.parallel.multihost import initialise

        initialise()
    write_record(config, args.workdir / "config.json")
    if config.get("stage") == "vae":
        from champ_jax.train.autoencoder import train

        figures = train(config, args.workdir)
        result = f"PSNR {figures['psnr']:.2f} dB, {figures['psnr_person']:.2f} dB on the person"
    else:
        from champ_jax.train.loop import train

        figures = train(config, args.workdir, resume=args.resume)
        result = f"validation loss {figures['first']:.4f} -> {figures['last']:.4f}"
    if args.json:
        print(json.dumps(figures))
    else:
        print(f"{figures['steps']} steps in {figures['seconds']:.0f} s, {result}, weights in {figures['weights']}")
    return 0


def make_workdir(workdir: Path) -> None:
    """Makes the folder; raises UserError when nothing can be written there."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error}. Give another --workdir.") from error
