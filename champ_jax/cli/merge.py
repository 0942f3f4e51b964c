"""`champ-jax merge`: the components of several models in one folder, such as stage A's M2P and stage C's networks."""

import argparse
from pathlib import Path

DTYPES = ("float32", "bfloat16", "float16")


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "merge",
        help="join the components of several models",
        description="Writes one model of the components of several; where two have the same component, the last one counts.",
        epilog="example: champ-jax merge runs/a/weights runs/c/weights --out model",
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="WEIGHTS", help="folders that training wrote")
    parser.add_argument("--out", required=True, type=Path, help="the model's folder")
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="PATH=SCALE",
        help="a LoRA, a file or the folder of a run, to add so many times to the result (default: 1); several add up",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="what numbers are stored as (default: %(default)s)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Reads all sources, checks that what came together is a model, then writes it."""
    from champ_jax.checkpoint.weights import load_weights, save_weights
    from champ_jax.cli.sampling import read_lora_option
    from champ_jax.convert.own_lora import read_lora
    from champ_jax.infer.pipeline import build_pipeline
    from champ_jax.models.lora import add_lora, with_lora
    from champ_jax.nn.quantised import refuse_quantised

    params, config = {}, {}
    for source in args.sources:
        part, described = load_weights(source)
        refuse_quantised(part, source)
        params |= with_lora(part, str(source))
        if "denoiser" not in part:  # what it says of networks that it does not hold means nothing
            described = {name: described[name] for name in (*part, "pipeline") if name in described}
        config |= described | {"pipeline": {**config.get("pipeline", {}), **described.get("pipeline", {})}}
    for path, scale in map(read_lora_option, args.lora):
        params = add_lora(params, read_lora(path, params), scale, path)
    if {"denoiser", "vae"} <= params.keys():
        build_pipeline(params, config, str(args.out))
    save_weights(args.out, params, config, args.dtype)
    print(f"{args.out}: {', '.join(sorted(params))}")
    return 0
