"""`champ-jax convert`: checkpoints of the PyTorch world to a folder of ours and back, and what a file is."""

import argparse
import dataclasses
import json
from pathlib import Path

DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command and its three actions to the main parser."""
    parser = subparsers.add_parser(
        "convert",
        help="import, export and inspect checkpoints",
        description="Reads and writes the checkpoints of the PyTorch world, without PyTorch, and says what a file is.",
        epilog="example: champ-jax convert inspect champ/denoising_unet.pth. The kinds are listed in docs/checkpoints.md.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    importing = actions.add_parser(
        "import",
        help="a checkpoint to a folder of ours",
        description="Reads a checkpoint whole, or refuses it and lists what does not fit, and writes it as a folder of ours.",
        epilog="example: champ-jax convert import --src champ/ --out models/champ",
    )
    importing.add_argument("--from", dest="kind", metavar="KIND", help="what it is (default: recognised by its names)")
    importing.add_argument("--src", required=True, metavar="PATH", help="file or folder, or hf:owner/name[/file][@revision]")
    lora = 'a LoRA to merge into it, "FILE" or "FILE=SCALE" (default scale: 1); may be given several times'
    importing.add_argument("--lora", action="append", default=[], metavar="FILE=SCALE", help=lora)
    importing.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write")
    _add_dtype(importing)
    exporting = actions.add_parser(
        "export",
        help="a folder of ours to another format",
        description="Writes components of a model, or of a run of training, in the format that other programs load.",
        epilog="example: champ-jax convert export --checkpoint runs/c --to champ --out champ_new --dtype f16",
    )
    exporting.add_argument("--checkpoint", required=True, metavar="DIR", help="folder of weights, or of a run")
    exporting.add_argument(
        "--to",
        dest="kind",
        required=True,
        metavar="KIND",
        help="what to write, such as champ, animate-anyone, "
        "motion-adapter, sd-unet, sd-vae, clip-vision (docs/checkpoints.md has all); lora for one that was trained here",
    )
    exporting.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write to")
    exporting.add_argument(
        "--format", dest="form", choices=("safetensors", "pt"), default="safetensors", help="of the files (default: %(default)s)"
    )
    _add_dtype(exporting)
    inspecting = actions.add_parser(
        "inspect",
        help="what is this file?",
        description="Says of what kind a file or folder is, its geometry, parameters and dtypes, and anything odd; reads no tensor.",
        epilog="example: champ-jax convert inspect motion_module.pth --json",
    )
    inspecting.add_argument("path", metavar="PATH", help="file or folder, or hf:owner/name[/file][@revision]")
    inspecting.add_argument("--json", action="store_true", help="print as JSON")
    return parser


def _add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=DTYPES, help="what floating-point tensors are stored as (default: as they are)")


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action."""
    return {"import": _import, "export": _export, "inspect": _inspect}[args.action](args)


def _import(args: argparse.Namespace) -> int:
    from champ_jax.cli.sampling import read_lora_option
    from champ_jax.convert import import_checkpoint, recognise, save_import
    from champ_jax.convert.lora import left_out
    from champ_jax.convert.state import open_state

    kind, loras = args.kind or recognise(args.src), [read_lora_option(text) for text in args.lora]
    weights = import_checkpoint(args.src, kind, loras)
    save_import(weights, args.out, kind, DTYPES.get(args.dtype))
    print(f"{args.out}: {', '.join(sorted(weights.params))} of {kind}")
    for path, _ in loras:
        if unused := left_out(open_state(path).tensors):
            print(f"  {len(unused)} tensors of {path} are not merged: {next(iter(unused.values()))}")
    if weights.kept:
        print(f"  {len(weights.kept)} tensors that no component uses are kept beside them, for writing the checkpoint back")
    return 0


def _export(args: argparse.Namespace) -> int:
    from champ_jax.convert import export_checkpoint
    from champ_jax.convert.own_lora import export_lora

    if args.kind == "lora":
        written = export_lora(args.checkpoint, args.out)
    else:
        written = export_checkpoint(args.checkpoint, args.kind, args.out, args.form, DTYPES.get(args.dtype))
    for path in written:
        print(path)
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from champ_jax.convert import inspect_checkpoint

    report = inspect_checkpoint(args.path)
    if args.json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
        return 0
    print(report.path)
    print(f"  kind        {report.kind or 'unknown'}: {report.title}")
    print(f"  files       {report.form}, {report.bytes / 1e6:,.1f} MB")
    print(f"  numbers     {', '.join(f'{count:,} {name}' for name, count in report.dtypes.items())}")
    for name, (arrays, count) in report.components.items():
        print(f"  {name:11} {count:,} parameters in {arrays} arrays")
    for name, values in report.config.items():
        print(f"  {name:11} {_plain(values)}")
    for note in report.odd:
        print(f"  note        {note}")
    return 0


def _plain(values) -> str:
    if isinstance(values, dict):
        return ", ".join(f"{name} {f'({_plain(value)})' if isinstance(value, dict) else _plain(value)}" for name, value in values.items())
    return ", ".join(map(str, values)) if isinstance(values, (list, tuple)) else str(values)
