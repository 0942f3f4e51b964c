"""How fast training batches are read, and what share of a step a run would wait for them.

python -m benchmarks.input [--config quickstart:B] [--directory DIR] [--batches 40] [--step 0.1]

Prints, for reading ahead and for reading each batch when it is asked for, in turn and over the same batches:
batches and samples a second when nothing else is done, and the wait a step, and its share, beside steps of `--step` seconds
that leave the host alone, as an accelerator's do. The first batch of each row, which opens the files, is not counted.
Opened clips stay in memory as the configuration says (`data.cache`): `--config.data.cache=False` always decodes.
"""

import statistics
import time

from benchmarks.common import make_parser
from champ_jax.config import load_config
from champ_jax.data.loader import Loader, make_loader
from champ_jax.data.records import open_records
from champ_jax.dims import GUIDANCE_KINDS

ROUNDS = 3
WAYS = {"ahead, 2 threads": 2, "when asked for": 0}


def open_loader(config, threads: int) -> Loader:
    """The training batches of a configuration, from newly opened records; the first is read already."""
    data, stage = config.data, config.stage
    loader = make_loader(
        open_records(data.directory, data.split, keep=data.cache),
        stage=stage,
        batch_size=data.batch_size,
        frames=data.frames,
        size=data.size,
        kinds=tuple(config.model.get("kinds", GUIDANCE_KINDS)),
        stride=data.stride if stage == "C" else 1,
        motion_frames=data.get("motion_frames", 0) if stage == "B" else 0,
        seed=config.seed,
        augment=data.augment,
        skip_short=True,
        threads=threads,
    )
    next(loader)
    return loader


def measure(config, threads: int, batches: int, step: float) -> tuple[float, float]:
    """(seconds a batch when nothing else is done, seconds that a step of `step` seconds waits for its batch)."""
    loader = open_loader(config, threads)
    start = time.perf_counter()
    for _ in range(batches):
        next(loader)
    reading = time.perf_counter() - start
    loader, waiting = open_loader(config, threads), 0.0
    for _ in range(batches):
        time.sleep(step)
        start = time.perf_counter()
        next(loader)
        waiting += time.perf_counter() - start
    return reading / batches, waiting / batches


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--config", default="quickstart:B", help="name or file of a configuration")
    parser.add_argument("--directory", help="records, in place of the configuration's")
    parser.add_argument("--batches", type=int, default=40, help="in each measurement")
    parser.add_argument("--step", type=float, default=0.1, help="seconds of a training step")
    args, overrides = parser.parse_known_args()
    if args.directory:
        overrides.append(f"--config.data.directory={args.directory}")
    config = load_config(args.config, overrides)
    results: dict[str, list] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way, threads in WAYS.items():
            results[way].append(measure(config, threads, args.batches, args.step))
    data = config.data
    print(f"{args.config}, {data.directory}, {data.batch_size} samples of {data.frames} frames; median of {ROUNDS} rounds")
    print(f"{'':20}{'batches/s':>10}{'samples/s':>10}{'wait a step':>13}{'share':>8}")
    for way, rows in results.items():
        batch, wait = (statistics.median(column) for column in zip(*rows))
        share = wait / (wait + args.step)
        print(f"{way:20}{1 / batch:10.2f}{data.batch_size / batch:10.1f}{1e3 * wait:10.1f} ms{share:8.1%}")


if __name__ == "__main__":
    main()
