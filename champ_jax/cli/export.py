"""`champ-jax export`: a model for other runtimes."""

import argparse
import json
import os
from pathlib import Path

from champ_jax.cli.sampling import add_checkpoint, read_size


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "export",
        help="a model as StableHLO, ONNX or TensorRT",
        description="Writes the parts of a model as graphs of fixed shapes, with manifest.json, which says what goes in and out of each; "
        "with ONNX also onnx_dance.py, which makes videos with them and needs no JAX. docs/export.md has the names.",
        epilog="example: champ-jax export --checkpoint assets/weights/demo --format onnx --precision f32 --out demo_onnx",
    )
    add_checkpoint(parser)
    parser.add_argument("--format", required=True, help="stablehlo, onnx or tensorrt")
    parser.add_argument("--precision", default="f32", help="f32, f16, or int8 for the weights alone (default: %(default)s)")
    parser.add_argument("--out", required=True, type=Path, help="the folder to write, empty or new")
    parser.add_argument("--size", metavar="HxW", help="frame size in pixels, or one number for a square (default: the checkpoint's)")
    parser.add_argument("--frames", type=int, help="frames of a window (default: the checkpoint's)")
    parser.add_argument("--steps", type=int, help="denoising steps of the manifest's table (default: the checkpoint's)")
    parser.add_argument("--photos", type=int, default=1, help="photos of the person (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print a JSON object about the result")
    return parser


def run(args: argparse.Namespace) -> int:
    """Checks, reads the model, writes the folder, prints what is in it."""
    # The graphs are for any device; tracing them needs none, and a GPU's own attention must not get in.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from champ_jax.export.graphs import choose_shapes
    from champ_jax.export.write import check_export, write_export
    from champ_jax.infer.pipeline import load_pipeline

    size = read_size(args.size)
    check_export(args.out, args.format, args.precision)
    pipe = load_pipeline(args.checkpoint)
    shapes = choose_shapes(pipe, size, args.frames, args.steps, args.photos)
    about = write_export(pipe, args.out, args.format, args.precision, shapes)
    total = sum((args.out / name).stat().st_size for name in about["files"])
    if args.json:
        print(json.dumps({"out": str(args.out), "bytes": total, **about}))
    else:
        print(f"{args.out}: {', '.join(about['graphs'])}; {args.format} {args.precision}, {total / 2**20:.1f} MiB")
    return 0
