"""Two processes that find each other over loopback train as one does, stop at the same step, and go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.conftest import M2P

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = """
import json
from ml_collections import ConfigDict
from champ_jax.config import load_config

def get_config():
    config = load_config("demo_a").unlock()
    config.data.update({{"directory": {data!r}, "split": "train", "validation_split": "test", "size": 32, "batch_size": 8, "frames": 8}})
    config.optim.update({{"steps": 2, "warmup": 1, "decay": 0.0}})
    config.log.update({{"scalars": 1, "evaluate": 1000, "save": 1000, "validation_batches": 1}})
    config.model = ConfigDict({{"m2p": json.loads({model!r})}})
    return config
"""


def this_environment() -> dict[str, str]:
    """The environment that runs the tests, as activated."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "VIRTUAL_ENV": sys.prefix, "PATH": path, "PYTHONPATH": str(REPOSITORY)}


def start(count: int, config: Path, workdir: Path, *overrides: str, **environment: str) -> subprocess.Popen:
    """launch/local_cluster.sh with two devices a process, in the environment that runs the tests."""
    command = ["bash", "launch/local_cluster.sh", str(count), str(config), str(workdir), *overrides]
    # Every life of a run compiles the same programs.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1"}
    environment = {**this_environment(), **cache, "DEVICES": "2", "RESTARTS": "0", **environment}
    # A file, because a pipe that nobody reads stops who writes to it.
    with open(workdir.with_suffix(".log"), "a") as log:
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT)


def end(process: subprocess.Popen, workdir: Path) -> tuple[int, str]:
    """The exit code and all that was printed."""
    code = process.wait(timeout=300)
    return code, workdir.with_suffix(".log").read_text()


def process_of(index: int, workdir: Path) -> int:
    """The number of the Python process that is the cluster's member `index`."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = ((folder / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
        except OSError:
            continue
        if b"python" in words[0] and str(workdir).encode() in words and f"CHAMP_PROCESS={index}".encode() in variables:
            return int(folder.name)
    raise AssertionError(f"no member {index} of the cluster in {workdir}")


def until_step(step: int, process: subprocess.Popen, workdir: Path) -> None:
    """Waits until the run has logged a step."""
    while not (workdir / "metrics.jsonl").is_file() or not any(line["step"] >= step for line in lines(workdir)):
        assert process.poll() is None, workdir.with_suffix(".log").read_text()[-3000:]
        time.sleep(0.1)


def arrays(workdir: Path, step: int) -> dict:
    """Fingerprints of a checkpoint."""
    return json.loads((workdir / f"checkpoints/{step:08d}/manifest.json").read_text())["arrays"]


def lines(workdir: Path, group: str = "train") -> list[dict]:
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["group"] == group]


@pytest.fixture
def config(eight_clips, tmp_path) -> Path:
    data, _ = eight_clips
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(data=str(data), model=json.dumps(M2P)))
    return path


@pytest.mark.slow
def test_two_processes_train_stop_and_go_on(config, tmp_path):
    one, two, stopped = tmp_path / "one", tmp_path / "two", tmp_path / "stopped"
    code, output = end(start(1, config, one), one)
    assert code == 0, output[-3000:]
    code, output = end(start(2, config, two), two)
    assert code == 0, output[-3000:]
    assert [line["loss"] for line in lines(two)] == pytest.approx([line["loss"] for line in lines(one)], rel=2e-5)
    assert (two / "weights" / "config.json").is_file()
    assert len(lines(two)) == 2, "one process writes, once"

    process = start(2, config, stopped, "--config.optim.steps=100000")
    until_step(5, process, stopped)
    process.send_signal(signal.SIGTERM)
    code, output = end(process, stopped)
    assert code == 143, output[-3000:]
    saved = lines(stopped)[-1]["step"]
    code, output = end(start(2, config, stopped, f"--config.optim.steps={saved + 2}"), stopped)
    assert code == 0 and f"going on from step {saved}" in output, output[-3000:]
    assert [line["step"] for line in lines(stopped)] == list(range(1, saved + 3))


@pytest.mark.slow
def test_processes_of_different_configurations_are_refused(config, tmp_path):
    """Otherwise both would wait for each other for ever."""
    script = f"""
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export CHAMP_COORDINATOR=127.0.0.1:$port CHAMP_PROCESSES=2 JAX_PLATFORMS=cpu
CHAMP_PROCESS=0 python -m champ_jax train --multihost --config {config} --workdir {tmp_path}/w & first=$!
CHAMP_PROCESS=1 python -m champ_jax train --multihost --config {config} --workdir {tmp_path}/w --config.seed=5; second=$?
wait $first; echo "codes $? $second"
"""
    done = subprocess.run(["bash", "-c", script], env=this_environment(), capture_output=True, text=True, timeout=300)
    assert "codes 2 2" in done.stdout, done.stdout + done.stderr[-3000:]
    assert "of process 1 is not that of process 0" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "stops"])
def test_a_lost_process_ends_all_within_a_minute_and_the_run_goes_on(sent, victim, config, tmp_path):
    """Rows 25 and 26: whichever process it is; the end is bit for bit that of the unbroken run."""
    changes = ("--config.optim.steps=60", "--config.log.save=10")
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    code, output = end(start(2, config, unbroken, *changes), unbroken)
    assert code == 0, output[-3000:]
    # The launcher's patience: what is dead is noticed by the others within 30 s; what stopped must be killed after that.
    process = start(2, config, broken, *changes, GRACE="55" if sent == signal.SIGKILL else "30")
    until_step(15, process, broken)
    os.kill(process_of(victim, broken), sent)
    began = time.monotonic()
    code, output = end(process, broken)
    assert time.monotonic() - began < 75  # and the launcher's own patience with what cannot end by itself
    assert code == 75, output[-3000:]
    assert "most recent call first" in output, "the stacks of those that waited"
    code, output = end(start(2, config, broken, *changes), broken)
    assert code == 0 and "going on from step" in output, output[-3000:]
    assert arrays(broken, 60) == arrays(unbroken, 60)


@pytest.mark.slow
def test_four_processes_are_killed_and_restarted_by_the_launcher(config, tmp_path):
    """Rows 1 and 14: four train, one is killed, the launcher starts all again; and it is what one process computes."""
    changes = ("--config.optim.steps=12", "--config.log.save=4")
    one, four = tmp_path / "one", tmp_path / "four"
    code, output = end(start(1, config, one, *changes, DEVICES="4"), one)
    assert code == 0, output[-3000:]
    process = start(4, config, four, *changes, DEVICES="1", RESTARTS="3", GRACE="55")
    until_step(5, process, four)
    while not (four / "checkpoints/00000004/manifest.json").exists():  # saves go on beside training
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process_of(2, four), signal.SIGKILL)
    code, output = end(process, four)
    assert code == 0 and "going on from step" in output, output[-3000:]
    assert [line["loss"] for line in lines(four)] == pytest.approx([line["loss"] for line in lines(one)], rel=1e-4)
