"""`champ-jax train`: trains one stage, or several one after another, each from what the last one left."""

import argparse
import json
import os
import tempfile
from pathlib import Path

from champ_jax.errors import UserError, WorkdirError


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "train",
        help="train from a configuration",
        description="Trains from a configuration file. Given several, trains them in their order, each from the weights of the "
        "one before, in folders of the workdir that are named after their stages. Stopped with Ctrl-C it saves, exits with 75 "
        "and goes on when the same command is given again.",
        epilog="example: champ-jax train --config configs/stage_b.py --workdir runs/b --config.optim.steps=2000; or all three: "
        "champ-jax train --config stage_a --config stage_b --config stage_c --workdir runs/all --config.data.directory=DATA "
        "--config.init_from=WEIGHTS, a folder with a VAE and a CLIP tower at least.",
    )
    parser.add_argument("--config", required=True, action="append", help="a file in configs/, its name, or name:variant; "
                        "change single values, in all of them, with --config.a.b=value; may be given several times")  # fmt: skip
    parser.add_argument("--hw", help="a name in configs/hw/hardware.py, whose values for the stage are taken; see champ-jax plan")
    parser.add_argument("--workdir", required=True, type=Path, help="checkpoints, metrics and samples go here")
    parser.add_argument("--resume", choices=("auto", "changed", "never"), default="auto",
                        help="auto: go on from the newest valid checkpoint in the workdir (default); changed: also when the "
                        "configuration is another than the one that wrote it; never: refuse a workdir that has one")  # fmt: skip
    parser.add_argument("--profile", metavar="FIRST:STEPS", help="write a trace of so many steps from step FIRST on to "
                        "WORKDIR/profile, for TensorBoard or Perfetto")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the figures of the run as one line of JSON")
    parser.add_argument("--multihost", action="store_true", help="join the other processes of a TPU pod, a SLURM job or "
                        "CHAMP_COORDINATOR before anything else")  # fmt: skip
    return parser


def run(args: argparse.Namespace) -> int:
    """Checks the configurations and the workdir, then trains; prints the figures of each run, as JSON with --json."""
    from champ_jax.config import load_config, with_hardware

    configs = [load_config(name, with_hardware(name, args.hw, args.overrides)) for name in args.config]
    workdirs = [args.workdir] if len(configs) == 1 else [args.workdir / str(config.stage) for config in configs]
    if len(set(workdirs)) < len(configs):
        raise UserError(f"{', '.join(args.config)}: two of them are of the same stage; train them one at a time")
    profile = parse_window(args.profile) if args.profile else None
    make_workdir(args.workdir)
    use_compile_cache()
    if not args.multihost:
        train_all(configs, workdirs, args, profile)
        return 0
    from champ_jax.parallel.multihost import joined

    with joined():
        train_all(configs, workdirs, args, profile)
    return 0


def train_all(configs, workdirs: list[Path], args: argparse.Namespace, profile: tuple[int, int] | None) -> None:
    """Trains one configuration after another, each from the weights of the one before."""
    weights = None
    for config, workdir in zip(configs, workdirs):
        if weights is not None:
            with config.unlocked():
                config.init_from = weights
                # These are in those weights by now.
                config.init = {name: "" for name in config.get("init", {})}
        weights = train_one(config, workdir, args, profile)


def parse_window(text: str) -> tuple[int, int]:
    """(first step, number of steps) of 'FIRST:STEPS'; UserError for anything else."""
    first, _, count = text.partition(":")
    if not (first.isdecimal() and count.isdecimal() and int(first) and int(count)):
        raise UserError(f"--profile {text}: expected FIRST:STEPS, such as 100:5")
    return int(first), int(count)


def use_compile_cache() -> None:
    """Lets JAX keep what it compiles in JAX_COMPILATION_CACHE_DIR, or in the user's cache where there is an accelerator.

    A later start reads it back in seconds; a cache that is damaged or cannot be written costs a warning and the time.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        # On a CPU, code compiled for one machine may not run on another that shares the home directory.
        if jax.config.jax_platforms == "cpu" or os.environ.get("JAX_PLATFORMS") == "cpu":
            return
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "champ_jax" / "compiled"))


def train_one(config, workdir: Path, args: argparse.Namespace, profile: tuple[int, int] | None) -> str:
    """Trains what one configuration says, prints the figures, and returns where the weights are."""
    if config.get("stage") == "vae":
        from champ_jax.train.autoencoder import train

        figures = train(config, workdir)
        result = f"PSNR {figures['psnr']:.2f} dB, {figures['psnr_person']:.2f} dB on the person"
    else:
        from champ_jax.train.loop import train

        figures = train(config, workdir, resume=args.resume, profile=profile)
        result = f"validation loss {figures['first']:.4f} -> {figures['last']:.4f}"
    if args.json:
        print(json.dumps(figures), flush=True)
    else:
        print(f"{figures['steps']} steps in {figures['seconds']:.0f} s, {result}, weights in {figures['weights']}", flush=True)
    return figures["weights"]


def make_workdir(workdir: Path) -> None:
    """Makes the folder; raises WorkdirError when nothing can be written there."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise WorkdirError(f"cannot write to {workdir}: {error}. Give another --workdir.") from error
