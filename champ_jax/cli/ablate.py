"""`champ-jax ablate`: trains the old way, the new, and each choice alone, alike in all else, and writes what each is worth."""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

RESUMABLE = 75


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "ablate",
        help="measure what each choice of a model is worth",
        description="Trains every variant that the configuration names, with every seed, on the same data and for as many steps, "
        "animates the same held-out people, and writes ablation.md with a table (mean and spread over seeds), curves and frames. "
        "Each run's result is kept: the same command goes on where it was stopped, also when variants or seeds were added.",
        epilog="example: champ-jax ablate --config configs/ablation.py --out runs/ablation",
    )
    parser.add_argument("--config", required=True, help="as configs/ablation.py; --config.a.b=c changes a value")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="where results go (default: %(default)s)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Does every run that is not done yet, then writes the page."""
    from champ_jax.cli.bad_inputs import try_bad_inputs
    from champ_jax.cli.quickstart import Parts, check_place
    from champ_jax.cli.train import use_compile_cache
    from champ_jax.config import load_config
    from champ_jax.evaluate.ablation import read_test, write_page

    config = load_config(args.config, args.overrides)
    check(config)
    check_place(args.out)
    use_compile_cache()
    part = Parts(args.out, key_of(config))
    try:
        vae = part("vae", train_vae, config, args.out)
        test = read_test(config)
        runs = {}
        for seed in config.seeds:
            for name, choices in config.variants:
                runs[name, seed] = part(f"{name}, seed {seed}", run_variant, config, choices, seed, vae["weights"], test, args.out)
        refusals = part("bad inputs", try_bad_inputs, runs[config.variants[0][0], config.seeds[0]]["weights"], config.directory)
    except KeyboardInterrupt:
        print(f"interrupted: the same command goes on from {args.out}", file=sys.stderr)
        return RESUMABLE
    page = write_page(args.out, config, runs, refusals["cases"], test)
    print(f"open {page}")
    return 0


def check(config) -> None:
    """Raises UserError, before anything is trained, for choices that there are not, and for data that is not there."""
    from champ_jax.config import did_you_mean
    from champ_jax.data.records import open_records
    from champ_jax.errors import UserError

    for name, choices in config.variants:
        for choice in choices:
            if choice not in config.choices:
                known = list(config.choices)
                raise UserError(f"variant {name!r} names the choice {choice!r}{did_you_mean(choice, known)}. Known: {', '.join(known)}.")
    for split in ("train", "test"):
        open_records(config.directory, split)


def key_of(config) -> str:
    """Names what the results depend on, but not which of them are asked for: variants and seeds may be added later."""
    import hashlib

    plain = config.to_dict()
    kept = {name: value for name, value in plain.items() if name not in ("variants", "seeds", "choices")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def stage_config(config, stage: str, choices: tuple[str, ...]):
    """The training configuration of a stage: its base, what all variants share, and what the choices change; unlocked."""
    from champ_jax.config import load_config

    changed = load_config(config.base[stage]).copy_and_resolve_references().unlock()
    for changes in (config.same[stage], *(config.choices[choice].get(stage) for choice in choices)):
        if changes is not None:
            changed.update(changes)
    changed.data.directory = config.directory
    return changed


def train_vae(config, out: Path) -> dict[str, Any]:
    """The autoencoder that all variants share."""
    from champ_jax.train.autoencoder import train

    return train(stage_config(config, "vae", ()).lock(), out / "vae")


def run_variant(config, choices: tuple[str, ...], seed: int, vae: str, test, out: Path) -> dict[str, Any]:
    """Trains one variant with one seed, animates the test's people with it, and scores that."""
    from champ_jax.evaluate.ablation import score

    image = tuple(choice for choice in choices if "B" in config.choices[choice])
    motion = tuple(choice for choice in choices if "C" in config.choices[choice])
    stages = {"B": train_stage(config, "B", image, seed, vae, out / "B" / name_of(image) / str(seed))}
    if motion:
        weights = stages["B"]["weights"]
        stages["C"] = train_stage(config, "C", choices, seed, weights, out / "C" / name_of(choices) / str(seed))
    weights = list(stages.values())[-1]["weights"]
    photos = stage_config(config, "B", choices).data.get("references", 1)
    evaluation = out / "evaluation" / name_of(choices) / str(seed)
    return {"stages": stages, "weights": weights, "evaluation": str(evaluation), "scores": score(weights, test, photos, evaluation)}


def name_of(choices: tuple[str, ...]) -> str:
    """The folder of a combination of choices."""
    return "+".join(choice.replace(" ", "_") for choice in choices) or "old"


def train_stage(config, stage: str, choices: tuple[str, ...], seed: int, weights: str, workdir: Path) -> dict[str, Any]:
    """Trains one stage, or goes on with it, or finds it trained: variants that differ later on share it."""
    from champ_jax.evaluate.ablation import read_run
    from champ_jax.train.loop import train

    made = stage_config(config, stage, choices)
    made.seed, made.init_from = seed, weights
    if not (workdir / "weights").is_dir():
        train(made.lock(), workdir)
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
    return read_run(workdir)
