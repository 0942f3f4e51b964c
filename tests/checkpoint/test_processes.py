"""Checkpoints of two processes: whatever goes wrong in one of them, both do the same. Rows: docs/reliability.md."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from champ_jax.checkpoint import store
from champ_jax.parallel import multihost

REPOSITORY = Path(__file__).resolve().parents[2]
PREAMBLE = """
import resource, signal, sys, time
from champ_jax.parallel.multihost import barrier, initialise, leave
initialise()
import jax, jax.numpy as jnp, numpy as np
from champ_jax.checkpoint import store
from champ_jax.checkpoint.integrity import Corrupt
from champ_jax.errors import UserError, WorkdirError
from jax.sharding import Mesh, NamedSharding, PartitionSpec
directory, victim = sys.argv[1], int(sys.argv[2])
me = jax.process_index()
split = NamedSharding(Mesh(np.array(jax.devices()), ("all",)), PartitionSpec("all"))
def value(step):
    return np.random.default_rng(step).normal(size=(4, 100_000)).astype(np.float32)
def state(step):
    return {"w": jax.make_array_from_callback((4, 100_000), split, lambda index: value(step)[index])}
wanted = {"w": jax.ShapeDtypeStruct((4, 100_000), jnp.float32, sharding=split)}
def check_restored(step):
    tree, _, found = store.restore_newest(directory, wanted)
    assert found == step, found
    for shard in tree["w"].addressable_shards:
        np.testing.assert_array_equal(shard.data, value(step)[shard.index])
"""
FAILS = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
most = resource.getrlimit(resource.RLIMIT_FSIZE)
with store.Saver(directory, 2) as saver:
    saver.save(1, state(1), {})
    saver.wait()
    if me == victim:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most[1]))
    saver.save(2, state(2), {})
    began = time.monotonic()
    try:
        saver.wait()
        raise AssertionError("nothing was said")
    except UserError as error:
        assert f"cannot save step 2 in {directory}" in str(error)
    assert time.monotonic() - began < 30
    resource.setrlimit(resource.RLIMIT_FSIZE, most)
    check_restored(1)
    saver.save(3, state(3), {})  # while Orbax may still wait for what never comes
    saver.wait()
check_restored(3)
"""
DAMAGED = """
from benchmarks.bit_flips import flip
from pathlib import Path
with store.Saver(directory, 9) as saver:
    for step in (1, 2, 3):
        saver.save(step, state(step), {})
    saver.wait()
if me == 0:
    part = max(Path(directory, "00000003/arrays/state/ocdbt.process_1").rglob("*"), key=lambda path: path.stat().st_size)
    flip(part, 4000)
barrier("flipped")
load = store._load
def unreadable(folder, arrays):
    found = load(folder, arrays)
    if me == victim and folder.name == "00000002":
        raise Corrupt("this process cannot read it")
    return found
store._load = unreadable
check_restored(1)
assert store.steps(directory) == [1]
if me == 0:
    flip(Path(directory, "00000001/manifest.json"), 800)
barrier("flipped again")
try:
    store.restore_newest(directory, wanted)
    raise AssertionError("nothing was said")
except WorkdirError as error:
    assert "all 3 checkpoints" in str(error)
"""


def run_two(code: str, directory: Path, victim: int) -> None:
    """Runs `code` in two processes with two devices each; both must succeed."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    environment |= {multihost.COORDINATOR: f"localhost:{port}", multihost.COUNT: "2"}
    # Orbax's threads may wait for minutes for the process that failed; a run leaves in this way too.
    code = f"{PREAMBLE}{code}\nleave(0)"
    command = [sys.executable, "-c", code, str(directory), str(victim)]
    processes = [subprocess.Popen(command, cwd=REPOSITORY, env={**environment, multihost.INDEX: str(index)}) for index in (0, 1)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_process_cannot_write_its_part(tmp_path, victim):
    """Rows 5 and 6: both say so within seconds, the step before stays, and the next save works."""
    run_two(FAILS, tmp_path, victim)
    assert store.describe_steps(tmp_path)[-1] == (3, "valid")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_both_set_aside_what_one_cannot_read(tmp_path, victim):
    """Rows 8, 9 and 12: a damaged part, a part that one process alone cannot read, and nothing left."""
    run_two(DAMAGED, tmp_path, victim)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000001.bad", "00000002.bad", "00000003.bad"]
