"""Kills a short training run again and again with SIGKILL, and compares what it arrives at with the run that was left alone.

    python -m benchmarks.soak --kills 200 --workdir runs/soak

Half of the kills come while a checkpoint is being written, the others after a random number of steps. Prints one line of JSON and exits
with 1 when a parameter differs in a bit, or when a restart lost more than the steps since the newest checkpoint. The
same command goes on where it was stopped, and begins anew after it was done.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import REPOSITORY, make_parser
from champ_jax.checkpoint import store
from tests.train.conftest import M2P, write_clips

STEPS_A_KILL, SAVE_EVERY = 6, 4
CONFIG = """
import json
from ml_collections import ConfigDict
from champ_jax.config import load_config

def get_config():
    config = load_config("demo_a").unlock()
    config.data.update({{"directory": {data!r}, "split": "train", "validation_split": "test", "size": 32, "batch_size": 4, "frames": 8}})
    config.optim.update({{"steps": {steps}, "warmup": 1, "decay": 0.5}})
    config.log.update({{"scalars": 1, "evaluate": 100000, "save": {save}, "validation_batches": 1}})
    config.model = ConfigDict({{"m2p": json.loads({model!r})}})
    return config
"""


def start(config: Path, workdir: Path) -> subprocess.Popen:
    """One life of the run."""
    command = [sys.executable, "-m", "champ_jax", "train", "--config", str(config), "--workdir", str(workdir)]
    cache = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
             "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # fmt: skip
    with open(workdir.with_suffix(".log"), "a") as log:
        return subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, **cache}, stdout=log, stderr=subprocess.STDOUT)


def finish(config: Path, workdir: Path) -> None:
    """Lets the run come to its end."""
    code = start(config, workdir).wait()
    if code:
        sys.exit(f"error: the run ended with {code}, see {workdir.with_suffix('.log')}")


def last_step(workdir: Path) -> int:
    """The newest step that the run has logged."""
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["step"]
    except (OSError, ValueError, IndexError):
        return 0


def newest(workdir: Path) -> int:
    """The newest checkpoint that counts."""
    return max((step for step, state in store.describe_steps(workdir / "checkpoints") if state == "valid"), default=0)


def unfinished(workdir: Path) -> set[int]:
    """The folders, by inode, of steps that have no manifest: on their way to the disk, or left behind by a kill."""
    found = set()
    for step in (workdir / "checkpoints").glob("[0-9]*[0-9]"):
        try:
            inode = step.stat().st_ino
        except FileNotFoundError:  # removed meanwhile
            continue
        found |= set() if (step / "manifest.json").exists() else {inode}
    return found


def kill_once(config: Path, workdir: Path, draw: random.Random) -> dict:
    """Starts the run, kills it, and says where that was."""
    before, left = newest(workdir), unfinished(workdir)
    process = start(config, workdir)
    while last_step(workdir) <= before:  # until it trains
        if process.poll() is not None:
            sys.exit(f"error: the run ended by itself with {process.returncode}, see {workdir.with_suffix('.log')}")
        time.sleep(0.005)
    within, steps, pause = draw.random() < 0.5, draw.randrange(1, 2 * STEPS_A_KILL - 2), draw.random() * 0.02
    while process.poll() is None and not (unfinished(workdir) - left if within else last_step(workdir) >= before + steps):
        time.sleep(0.001)
    time.sleep(pause)
    inside = bool(unfinished(workdir) - left)
    process.kill()
    process.wait()
    return {"from": before, "killed_at": last_step(workdir), "within_save": inside, "kept": newest(workdir)}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how often the run is killed")
    parser.add_argument("--workdir", type=Path, default=Path("runs/soak"), help="where it runs; removed when all is well")
    parser.add_argument("--seed", type=int, default=0, help="of when it is killed")
    args = parser.parse_args()
    folder, began = args.workdir.absolute(), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    config, record = folder / "config.py", folder / "kills.jsonl"
    if not config.exists():
        write_clips(folder / "data", train=4, test=4)
        steps = args.kills * STEPS_A_KILL
        config.write_text(CONFIG.format(data=str(folder / "data"), steps=steps, save=SAVE_EVERY, model=json.dumps(M2P)))
    if not (folder / "unbroken/weights").exists():
        finish(config, folder / "unbroken")
    kills = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    while len(kills) < args.kills:
        kills.append(kill_once(config, folder / "killed", random.Random(args.seed + len(kills))))
        with open(record, "a") as file:
            file.write(json.dumps(kills[-1]) + "\n")
        print(f"{len(kills)}/{args.kills} {kills[-1]}", flush=True)
    finish(config, folder / "killed")
    manifests = [json.loads((folder / run / f"checkpoints/{newest(folder / run):08d}/manifest.json").read_text())
                 for run in ("unbroken", "killed")]  # fmt: skip
    weights = [b"".join(path.read_bytes() for path in sorted((folder / run / "weights").rglob("*.safetensors")))
               for run in ("unbroken", "killed")]  # fmt: skip
    result = {
        "kills": len(kills),
        "within_a_save": sum(kill["within_save"] for kill in kills),
        "arrays": len(manifests[0]["arrays"]),
        "state_equal": manifests[0]["arrays"] == manifests[1]["arrays"],
        "weights_equal": weights[0] == weights[1] and bool(weights[0]),
        "most_steps_lost": max((kill["killed_at"] - kill["kept"] for kill in kills), default=0),
        "steps": newest(folder / "killed"),
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(result))
    good = result["state_equal"] and result["weights_equal"] and result["most_steps_lost"] <= 2 * SAVE_EVERY
    shutil.rmtree(folder) if good else None
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
