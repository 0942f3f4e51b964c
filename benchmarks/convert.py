"""Time and memory of converting a whole set of CHAMP's weights: seven files, 10.3 GB in float32.

python -m benchmarks.convert --workdir DIR [--dtype float32]

Writes a synthetic set of CHAMP's names and shapes to DIR (31 GB are needed in all, and left for the next call), then
inspects, imports, exports and compares it. Prints seconds and peak resident memory of each, in a process of its own, beside
a plain copy of the same files.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from champ_jax.checkpoint.tensors import LazyArray, write_safetensors
from champ_jax.convert import KINDS, export_checkpoint, import_checkpoint, inspect_checkpoint, save_import
from champ_jax.convert.mapping import their_shapes
from champ_jax.convert.state import open_state
from champ_jax.dims import GUIDANCE_KINDS

FULL = {
    "unet": {"temporal": {"max_frames": 32}},
    "guidance": {"channels": [16, 32, 96, 256], "out_channels": 320},
    "kinds": GUIDANCE_KINDS,
}


def make(folder: Path, dtype: str) -> None:
    """Seven files of random numbers."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    config = FULL | {"unet": {"channels": [320, 640, 1280, 1280], "layers": 2, **FULL["unet"]}}
    for stem, format in KINDS["champ"].files.items():
        shapes: dict[str, tuple[int, ...]] = {}
        for component in format.components(config).values():
            shapes |= their_shapes(component.shapes, component.layout)
        shapes |= {name: array.shape for name, array in format.absent(config).items()}
        state = {
            name: LazyArray(shape, np.dtype(dtype), lambda shape=shape: draw.standard_normal(shape, np.float32).astype(dtype))
            for name, shape in shapes.items()
        }
        write_safetensors(folder / f"{stem}.safetensors", state)


def compare(first: Path, second: Path) -> None:
    """Fails unless both folders hold the same names and bytes."""
    for path in sorted(first.iterdir()):
        ours, theirs = open_state(path).tensors, open_state(second / path.name).tensors
        assert ours.keys() == theirs.keys(), path
        for name in ours:
            assert np.array_equal(np.asarray(ours[name]).view(np.uint8), np.asarray(theirs[name]).view(np.uint8)), name


def run(action: str, folder: Path) -> None:
    """One action; prints its seconds and the peak of this process' resident memory."""
    started = time.perf_counter()
    if action == "inspect":
        inspect_checkpoint(folder / "champ")
    elif action == "import":
        save_import(import_checkpoint(folder / "champ"), folder / "ours", "champ")
    elif action == "export":
        export_checkpoint(folder / "ours", "champ", folder / "back")
    elif action == "compare":
        compare(folder / "champ", folder / "back")
    elif action == "copy":
        shutil.copytree(folder / "champ", folder / "copy")
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{action:8} {seconds:7.1f} s  {peak:7.0f} MB at most", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16"))
    parser.add_argument("--action", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.action:
        run(args.action, args.workdir)
        return
    if not (args.workdir / "champ").is_dir():
        make(args.workdir / "champ", args.dtype)
    size = sum(path.stat().st_size for path in (args.workdir / "champ").iterdir())
    print(f"{size / 1e9:.2f} GB in {len(list((args.workdir / 'champ').iterdir()))} files", flush=True)
    for action in ("copy", "inspect", "import", "export", "compare"):
        shutil.rmtree(args.workdir / "copy", ignore_errors=True)
        command = [sys.executable, "-m", "benchmarks.convert", "--workdir", str(args.workdir), "--action", action]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
