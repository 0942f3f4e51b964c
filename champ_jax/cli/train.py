"""`champ-jax train`: trains one stage, or several one after another, each from what the last one left."""

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
        description="Trains from a configuration file. Given several, trains them in their order, each from the weights of the "
        "one before, in folders of the workdir that are named after their stages. Stopped with Ctrl-C it saves, exits with 75 "
        "and goes on when the same command is given again.",
        epilog="example: champ-jax train --config configs/stage_b.py --workdir runs/b --config.optim.steps=2000; or all three: "
        "champ-jax train --config stage_a --config stage_b --config stage_c --workdir runs/all --config.data.directory=DATA",
    )
    parser.add_argument("--config", required=True, action="append", help="a file in configs/, its name, or name:variant; "
                        "change single values, in all of them, with --config.a.b=value; may be given several times")  # fmt: skip
    parser.add_argument("--workdir", required=True, type=Path, help="checkpoints, metrics and samples go here")
    parser.add_argument("--resume", choices=("auto", "never"), default="auto",
                        help="auto: go on from the newest valid checkpoint in the workdir (default); "
                        "never: refuse to start in a workdir that has one")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the figures of the run as one line of JSON")
    parser.add_argument("--multihost", action="store_true", help="join the other processes of a TPU pod, a SLURM job or "
                        "CHAMP_COORDINATOR before anything else")  # fmt: skip
    return parser


def run(args: argparse.Namespace) -> int:
    """Checks the configurations and the workdir, then trains; prints the figures of each run, as JSON with --json."""
    from champ_jax.config import load_config

    configs = [load_config(name, args.overrides) for name in args.config]
    workdirs = [args.workdir] if len(configs) == 1 else [args.workdir / str(config.stage) for config in configs]
    if len(set(workdirs)) < len(configs):
        raise UserError(f"{', '.join(args.config)}: two of them are of the same stage; train them one at a time")
    make_workdir(args.workdir)
    if args.multihost:
        from champ_jax.parallel.multihost import initialise

        initialise()
    weights = None
    for config, workdir in zip(configs, workdirs):
        if weights is not None:
            with config.unlocked():
                config.init_from = weights
                # These are in those weights by now.
                config.init = {name: "" for name in config.get("init", {})}
        weights = train_one(config, workdir, args.resume, args.json)
    return 0


def train_one(config, workdir: Path, resume: str, as_json: bool) -> str:
    """Trains what one configuration says, prints the figures, and returns where the weights are."""
    if config.get("stage") == "vae":
        from champ_jax.train.autoencoder import train

        figures = train(config, workdir)
        result = f"PSNR {figures['psnr']:.2f} dB, {figures['psnr_person']:.2f} dB on the person"
    else:
        from champ_jax.train.loop import train

        figures = train(config, workdir, resume=resume)
        result = f"validation loss {figures['first']:.4f} -> {figures['last']:.4f}"
    if as_json:
        print(json.dumps(figures), flush=True)
    else:
        print(f"{figures['steps']} steps in {figures['seconds']:.0f} s, {result}, weights in {figures['weights']}", flush=True)
    return figures["weights"]


def make_workdir(workdir: Path) -> None:
    """Makes the folder; raises UserError when nothing can be written there."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error}. Give another --workdir.") from error
