"""`champ-jax quantise`: a model in 8 or 16 bits, with what that costs."""

import argparse
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

from champ_jax.cli.progress import progress
from champ_jax.cli.sampling import add_checkpoint

CLIPS, FRAMES = 4, 24  # at most, of those that are looked at


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "quantise",
        help="store a model in 8 or 16 bits",
        description="Writes a model in a smaller precision, which every command reads like any other. With --calibrate, what is lost is "
        "measured on held-out clips, and the blocks that lose the most stay as they are until --budget holds.",
        epilog="example: champ-jax quantise --checkpoint assets/weights/demo --precision int8 --out int8 --calibrate assets/dancers",
    )
    add_checkpoint(parser)
    parser.add_argument("--precision", required=True, help="int8 or fp8: kernels of 8 bits; w8a8, fp8: the denoiser's "
                        "inputs too; fp16, bf16: all of 16 bits")  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, help="the model's folder")
    parser.add_argument("--calibrate", type=Path, metavar="DATA", help="records with splits train and test: losses are measured on clips "
                        "of test")  # fmt: skip
    parser.add_argument("--budget", type=float, metavar="DB", help="decibels of PSNR that may be lost (default: 1)")
    parser.add_argument("--static", action="store_true", help="w8a8, fp8: one range for each input, seen in clips of train, in place of "
                        "each row's own; less exact")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a JSON object about the result")
    return parser


def run(args: argparse.Namespace) -> int:
    """Quantises, measures if there are clips, writes, and says what became of it."""
    from champ_jax.checkpoint.weights import check_model_place, save_weights
    from champ_jax.convert.components import gather
    from champ_jax.errors import UserError
    from champ_jax.export.quantise import array_bytes, parameter_count, quantise
    from champ_jax.infer.pipeline import build_pipeline

    check(args)
    check_model_place(args.out.absolute())
    params, config = gather(args.checkpoint, {})
    quantise(params, args.precision)  # refuses what cannot be, before the clips are looked at
    pipe = build_pipeline(params, config, str(args.checkpoint))
    choice, ranges, budget = None, None, 1.0 if args.budget is None else args.budget
    if args.calibrate is not None:
        choice, ranges = look_at_clips(args, pipe, params, budget)
        if choice.lost > budget:
            raise UserError(f"{args.precision} loses {choice.lost:.3f} dB and --budget is {budget:g}: give more, or another precision")
    exclude = choice.exclude if choice else []
    made = quantise(params, args.precision, exclude, ranges)
    recipe: dict[str, Any] = {"precision": args.precision, "exclude": exclude, "static": ranges is not None}
    if choice:
        # JSON knows no infinity: the PSNR of what changes nothing is null.
        finite = lambda x: x if math.isfinite(x) else None  # noqa: E731
        errors = {name: finite(decibels) for name, decibels in choice.errors.items()}
        recipe |= {"budget_db": budget, "lost_db": finite(choice.lost), "lost_db_without_exclusions": finite(choice.all_lost),
                   "block_psnr": errors}  # fmt: skip
    save_weights(args.out, made, config, None, recipe=recipe)
    sizes = {"bytes": array_bytes(made), "bytes_float32": 4 * parameter_count(params)}
    report(args, sizes | {"ratio": sizes["bytes_float32"] / sizes["bytes"]}, recipe, choice)
    return 0


def check(args: argparse.Namespace) -> None:
    """Raises UserError for options that do not go together and for a package that is not there."""
    from importlib.util import find_spec

    import jax

    from champ_jax.errors import UserError, did_you_mean
    from champ_jax.export.quantise import PRECISIONS

    if args.precision not in PRECISIONS:
        raise UserError(f"--precision is {args.precision!r}{did_you_mean(args.precision, PRECISIONS)}: give {', '.join(PRECISIONS)}")
    inputs_too = args.precision in ("w8a8", "fp8")
    if args.calibrate is None and (args.budget is not None or args.static):
        raise UserError(f"{'--static' if args.static else '--budget'} needs clips to look at: give --calibrate DATA")
    if args.budget is not None and not args.budget >= 0:
        raise UserError(f"--budget is {args.budget:g}: give 0 or more decibels")
    if args.static and not inputs_too:
        raise UserError(f"--static is about layers' inputs, and {args.precision} leaves them: use w8a8 or fp8, or leave it away")
    if inputs_too and find_spec("qwix") is None:
        raise UserError(f"{args.precision} multiplies 8-bit numbers, which needs qwix: pip install 'champ_jax[quantise]'")
    if args.precision == "fp8" and jax.default_backend() == "cpu":
        print("note: a CPU has no 8-bit floats: it multiplies them as float32, so fp8 is smaller here, and no faster.", file=sys.stderr)


def look_at_clips(args: argparse.Namespace, pipe, params, budget: float):
    """(what a search on clips of test chose, static ranges seen on clips of train or None)."""
    from champ_jax.data.records import open_records
    from champ_jax.errors import UserError
    from champ_jax.evaluate import held_out
    from champ_jax.export.calibrate import input_ranges
    from champ_jax.export.quantise import search

    def clips(split: str) -> list:
        records = open_records(args.calibrate, split)
        usable = [number for number, info in enumerate(records.infos) if info.stored]
        if not usable:
            raise UserError(f"{args.calibrate}, split {split}: no clip has frames")
        # From all over the split, where neighbours are often of one person.
        chosen = usable[:: -(-len(usable) // CLIPS)]
        return [held_out.read_clip(records[number], pipe.settings.size, min(FRAMES, pipe.settings.window)) for number in chosen]

    test, train = clips("test"), clips("train") if args.static else []
    ranges = input_ranges(pipe, partial(held_out.animate_clips, clips=train)) if train else None
    truth = [clip.truth.frames for clip in test]
    with progress("blocks") as on_progress:
        animate = partial(held_out.animate_clips, clips=test)
        return search(pipe, params, args.precision, animate, truth, budget, ranges, on_progress), ranges


def report(args: argparse.Namespace, sizes: dict[str, float], recipe: dict[str, Any], choice) -> None:
    """Prints sizes, what was lost and what was left out."""
    if args.json:
        print(json.dumps({"out": str(args.out), **sizes, **recipe}))
        return
    print(f"{args.out}: {args.precision}, {sizes['bytes'] / 1e6:.2f} MB, {sizes['ratio']:.2f} times smaller than float32 "
          f"({sizes['bytes_float32'] / 1e6:.2f} MB)")  # fmt: skip
    if choice:
        print(f"PSNR lost: {choice.lost:.3f} dB of a budget of {recipe['budget_db']:g}; {choice.to_whole:.1f} dB to the videos of the "
              "weights as they were")  # fmt: skip
    for name in recipe["exclude"]:
        print(f"left as it is: {name} ({choice.errors[name]:.1f} dB to those videos when it alone is quantised)")
