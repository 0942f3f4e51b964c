"""How long saving a state keeps its caller waiting, beside training and to the disk, and what checking costs when restoring.

    python -m benchmarks.checkpoint --megabytes 200

Prints one line of JSON: medians in seconds over the saves after the first one, which compiles the fingerprints; and of a
restore the parts that check the files' and the arrays' sums. "plain_write" and "plain_read" are of one file of as many bytes,
written to the disk and read again: the least that a save and a restore can take. What saves cost a whole run says benchmarks/stall.py.
"""

import json
import os
import statistics
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.common import make_parser, seconds, size_mb
from champ_jax.checkpoint import store


def make_tree(megabytes: int) -> dict:
    """A training state: of every parameter a master copy, its average and two moments in float32, and as much frozen in bfloat16."""
    count = max(1, megabytes // 18)
    keys = jax.random.split(jax.random.key(0), count)
    groups = {"trained": jnp.float32, "ema": jnp.float32, "mu": jnp.float32, "nu": jnp.float32, "frozen": jnp.bfloat16}
    return {
        group: {f"kernel_{i}": jax.random.normal(key, (1000, 1000), dtype) for i, key in enumerate(keys)} for group, dtype in groups.items()
    }


def write_plainly(path: Path, content: bytes) -> None:
    """Writes a file and waits for the disk."""
    with open(path, "wb") as file:
        file.write(content)
        os.fsync(file.fileno())


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--megabytes", type=int, default=200, help="of the state")
    parser.add_argument("--saves", type=int, default=5, help="after the first, of which medians are taken")
    args = parser.parse_args()
    tree = jax.block_until_ready(make_tree(args.megabytes))
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    blocked, whole, parts = [], [], {}

    def timed(name: str):
        original = getattr(store, name)

        def run(*arguments):
            parts[name] = seconds(original, *arguments)

        setattr(store, name, run)

    with tempfile.TemporaryDirectory() as folder, store.Saver(folder, 2) as saver:
        for step in range(args.saves + 1):
            blocked.append(seconds(saver.save, step, tree, {}))
            whole.append(blocked[-1] + seconds(saver.wait))
        size = size_mb(Path(folder, f"{args.saves:08d}"))
        plain = Path(folder, "plain")
        content = os.urandom(round(1e6 * size))
        write = [seconds(write_plainly, plain, content) for _ in range(args.saves)]
        read = [seconds(plain.read_bytes) for _ in range(args.saves)]
        timed("check_files")
        timed("verify")
        restored = seconds(store.restore_newest, folder, wanted)
    figures = {
        "state_mb": sum(x.nbytes for x in jax.tree.leaves(tree)) / 1e6,
        "checkpoint_mb": size,
        "first_save_blocks": blocked[0],
        "save_blocks": statistics.median(blocked[1:]),
        "save_and_wait": statistics.median(whole[1:]),
        "restore": restored,
        "of_it_files": parts["check_files"],
        "of_it_arrays": parts["verify"],
        "plain_write": statistics.median(write),
        "plain_read": statistics.median(read),
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
