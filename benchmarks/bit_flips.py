"""Flips single bits in the files of a checkpoint, one at a time, and counts how many of them restoring notices.

    python -m benchmarks.bit_flips --flips 200

Of all files, manifest included, in proportion to their sizes; one in four in the small ones. Prints "D of N detected" and
exits with 1 when one was not; that the checkpoint restores without a flip is checked first.
"""

import random
import shutil
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.common import make_parser
from champ_jax.checkpoint.store import Saver, restore_newest
from champ_jax.errors import WorkdirError


def flip(path: Path, bit: int) -> None:
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)


def make_tree() -> dict:
    """Arrays of several sizes and dtypes, as a training state has them."""
    keys = iter(jax.random.split(jax.random.key(0), 8))
    kernels = {f"kernel_{i}": jax.random.normal(next(keys), (3, 3, 16, 32)) for i in range(4)}
    return {**kernels, "frozen": jax.random.normal(next(keys), (256, 64), jnp.bfloat16), "bias": jnp.zeros(32), "step": jnp.int32(7)}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--flips", type=int, default=200, help="bits flipped, one at a time")
    parser.add_argument("--seed", type=int, default=0, help="of which bits")
    args = parser.parse_args()
    draw, tree = random.Random(args.seed), make_tree()
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    with tempfile.TemporaryDirectory() as folder:
        whole, run = Path(folder) / "whole", Path(folder) / "run"
        with Saver(whole, 2) as saver:
            saver.save(1, tree, {"seed": 0})
            saver.wait()
        files = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file() and path.stat().st_size]
        sizes = [(whole / path).stat().st_size for path in files]
        assert restore_newest(whole, wanted) is not None, "the checkpoint does not restore without a flip"
        missed = []
        for number in range(args.flips):
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(whole, run)
            path = draw.choice(files) if number % 4 == 0 else draw.choices(files, sizes)[0]
            bit = draw.randrange(8 * (run / path).stat().st_size)
            flip(run / path, bit)
            try:
                restore_newest(run, wanted)
                missed.append((str(path), bit))
            except WorkdirError:
                continue
    print(f"{args.flips - len(missed)} of {args.flips} detected, over {len(files)} files of {sum(sizes)} bytes")
    for path, bit in missed:
        print(f"  missed: bit {bit} of {path}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
