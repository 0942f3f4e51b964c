"""`champ-jax ablate`: trains the old way, the new, and each choice alone, alike in all else, and writes what each is worth."""

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from champ_jax.errors import RESUMABLE

VAE = "vae"  # its folder
FREE = ("model", "sampling", "train_clip", "data.references")  # settings that a base need not have


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
    test = read_test(config)
    check_place(args.out)
    use_compile_cache()
    part = Parts(args.out, key_of(config))
    try:
        part("vae", train_vae, config, args.out)
        runs = {}
        for seed in config.seeds:
            for name, choices in config.variants:
                label = f"{name}, seed {seed} ({digest(*(made.to_dict() for made in stage_configs(config, choices).values()))})"
                runs[name, seed] = part(label, run_variant, config, choices, seed, test, args.out)
        old = runs[config.variants[0][0], config.seeds[0]]
        refusals = part("bad inputs", try_bad_inputs, str(args.out / old["weights"]), config.directory)
    except KeyboardInterrupt:
        print(f"interrupted: the same command goes on from {args.out}", file=sys.stderr)
        return RESUMABLE
    page = write_page(args.out, config, runs, refusals["cases"], test)
    print(f"open {page}")
    return 0


def check(config) -> None:
    """Raises UserError, before anything is trained, for choices, settings, models or data that there are not."""
    from champ_jax.data.records import open_records
    from champ_jax.errors import UserError, did_you_mean
    from champ_jax.train.assemble import assemble_abstract

    if len(config.variants) < 2:
        raise UserError("config.variants: expected two and more, of which the first is the old way and the second the new")
    for name, choices in config.variants:
        for choice in choices:
            if choice not in config.choices:
                known = list(config.choices)
                raise UserError(f"variant {name!r} names the choice {choice!r}{did_you_mean(choice, known)}. Known: {', '.join(known)}.")
        stages = stage_configs(config, choices)
        photos = stages["B"].data.get("references", 1)
        if photos > config.test.references:
            raise UserError(f"variant {name!r} has {photos} photos, and config.test.references is {config.test.references}")
        whole = stages["B"]
        whole.model.vae = stages["vae"].vae
        if "C" in stages:
            whole.model.unet.update(stages["C"].model.unet)
        assemble_abstract(whole)
    for split in ("train", "test"):
        open_records(config.directory, split)


def key_of(config) -> str:
    """Names what all results depend on: the autoencoder, the test, and what is in the data. Not the runs: more may be asked for later."""
    index = [path.read_text() for path in sorted(Path(config.directory).glob("index-*.json"))]
    return digest(stage_config(config, "vae", ()).to_dict(), config.test.to_dict(), index)


def digest(*values: Any) -> str:
    """Names plain values by what is in them."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def stage_configs(config, choices: tuple[str, ...]) -> dict[str, Any]:
    """The stages that a variant is trained in, with their configurations: "vae", "B" and, where a choice is of it, "C"."""
    image = tuple(choice for choice in choices if "B" in config.choices[choice])
    stages = {"vae": stage_config(config, "vae", ()), "B": stage_config(config, "B", image)}
    if len(image) < len(choices):
        stages["C"] = stage_config(config, "C", choices)
    return stages


def stage_config(config, stage: str, choices: tuple[str, ...]):
    """The training configuration of a stage: its base, what all variants share, and what the choices change; unlocked.

    Raises UserError for a setting that the base does not have; models may have any, and are checked as models.
    """
    from champ_jax.config import leaves, load_config
    from champ_jax.errors import UserError

    base = load_config(config.base[stage]).copy_and_resolve_references().unlock()
    made = base.copy_and_resolve_references()
    for changes in (config.same[stage], *(config.choices[choice].get(stage) for choice in choices)):
        if changes is None:
            continue
        for name in leaves(changes):
            if name not in leaves(base) and not name.startswith(FREE):
                raise UserError(f"config.same or config.choices changes {stage}'s {name}, which {config.base[stage]} does not have")
        made.update(changes)
    made.data.directory = config.directory
    return made


def train_vae(config, out: Path) -> dict[str, Any]:
    """The autoencoder that all variants share."""
    from champ_jax.train.autoencoder import train

    found = train(stage_config(config, "vae", ()).lock(), out / VAE)
    return {name: value for name, value in found.items() if name != "weights"}


def run_variant(config, choices: tuple[str, ...], seed: int, test, out: Path) -> dict[str, Any]:
    """Trains one variant with one seed, animates the test's people with it, and scores that. Paths are from `out` on."""
    from champ_jax.evaluate.ablation import score

    stages, found, weights = stage_configs(config, choices), {}, f"{VAE}/weights"
    before = [stages.pop("vae").to_dict()]
    for stage, made in stages.items():
        before.append(made.to_dict())
        mine = tuple(choice for choice in choices if stage == "C" or "B" in config.choices[choice])
        place = f"{stage}/{name_of(mine)}-{digest(*before)}/{seed}"
        made.seed, made.init_from = seed, str(out / weights)
        found[stage] = train_stage(made.lock(), out / place)
        weights = f"{place}/weights"
    evaluation = f"evaluation/{name_of(choices)}-{digest(*before)}/{seed}"
    photos = stages["B"].data.get("references", 1)
    scores = score(str(out / weights), test, photos, out / evaluation)
    return {"stages": found, "weights": weights, "evaluation": evaluation, "scores": scores}


def name_of(choices: tuple[str, ...]) -> str:
    """A combination of choices, for a folder's name."""
    return "+".join(choice.replace(" ", "_") for choice in choices) or "old"


def train_stage(config, workdir: Path) -> dict[str, Any]:
    """Trains one stage, or goes on with it, or finds it trained: variants that differ later on share it."""
    from champ_jax.evaluate.ablation import read_run
    from champ_jax.train.loop import train

    if not (workdir / "weights").is_dir():
        train(config, workdir)
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
    return read_run(workdir)
