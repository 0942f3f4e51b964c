"""What saving and waiting for data cost a run, as shares of its step time; saving beside training against waiting for the disk.

    python -m benchmarks.stall --config quickstart:B --steps 120 --save 20

Trains the configuration twice in one process, and reads the seconds by kind that the loop itself counts. Prints one line
of JSON a run. The steps up to the first save, which compiles what it needs, are left out.
"""

import json
import shutil
import tempfile
from pathlib import Path

import jax

from benchmarks.common import make_parser, size_mb
from champ_jax.checkpoint.store import Saver
from champ_jax.config import load_config
from champ_jax.train.loop import train


def shares(config, workdir: Path, save: int) -> dict:
    """Milliseconds a step by kind after the first save, and what of it stands still."""
    train(config, workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    # A save is counted in the line of the step after it.
    kept = [line for line in lines if line["group"] == "seconds" and save + 1 < line["step"] < config.optim.steps]
    steps, saves = len(kept), (config.optim.steps - 1) // save - 1
    total = {kind: sum(line[kind] for line in kept) for kind in ("training", "input", "checkpoint")}
    step = total["training"] + total["input"]
    return {
        "step_ms": round(1000 * step / steps, 1),
        "input_share": round(total["input"] / step, 4),
        "stall_ms_a_save": round(1000 * total["checkpoint"] / saves, 1),
        "stall_share": round(total["checkpoint"] / step, 4),
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--config", default="quickstart:B", help="what is trained; --config.a.b=c changes a value")
    parser.add_argument("--steps", type=int, default=120, help="of each run")
    parser.add_argument("--save", type=int, default=20, help="steps between saves")
    args, overrides = parser.parse_known_args()
    values = {"optim.steps": args.steps, "log.save": args.save, "log.scalars": 1, "log.evaluate": 10**6, "log.sample_steps": 0}
    config = load_config(args.config, [f"--config.{name}={value}" for name, value in values.items()] + overrides)
    compiled = tempfile.mkdtemp()
    jax.config.update("jax_compilation_cache_dir", compiled)  # the second run need not compile
    beside = Saver.save

    def and_wait(self, *arguments):
        beside(self, *arguments)
        self.wait()

    for name, save in (("beside training", beside), ("waiting for the disk", and_wait)):
        Saver.save = save
        with tempfile.TemporaryDirectory() as folder:
            figures = shares(config, Path(folder), args.save)
            size = size_mb(Path(folder) / "checkpoints") / 2  # two are kept
        print(json.dumps({"save": name, "checkpoint_mb": round(size), **figures}), flush=True)
    shutil.rmtree(compiled)


if __name__ == "__main__":
    main()
