"""The mesh, batches on it, and the layout of parameters: on eight fake devices, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from champ_jax.errors import UserError
from champ_jax.parallel import multihost
from champ_jax.parallel.mesh import make_mesh

REPOSITORY = Path(__file__).resolve().parents[2]

PRELUDE = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from champ_jax.errors import UserError
from champ_jax.parallel.mesh import batch_sharding, make_mesh, replicated, shard_batch
from champ_jax.parallel.sharding import check_rules, layout, parameter_spec
def refused(function, *args):
    try:
        function(*args)
    except UserError as error:
        return str(error)
"""


def on_devices(count: int, code: str) -> None:
    """Runs `code` after PRELUDE with `count` fake CPU devices."""
    environment = {**os.environ, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"}
    subprocess.run([sys.executable, "-c", PRELUDE + code], cwd=REPOSITORY, env=environment, check=True)


def test_sizes_and_batches():
    on_devices(
        8,
        """
mesh = make_mesh({"replica": -1, "fsdp": 2})
assert dict(mesh.shape) == {"slice": 1, "outer": 1, "inner": 4, "fsdp": 2, "context": 1, "tensor": 1}
assert make_mesh({"replica": 2}).size == 2
assert "does not fit 8 devices" in refused(make_mesh, {"replica": 16})
assert "does not fit 8 devices" in refused(make_mesh, {"replica": -1, "fsdp": 3})
assert "no axis date" in refused(make_mesh, {"date": 8})
assert "one of them may be -1" in refused(make_mesh, {"replica": -1, "fsdp": -1})

batch = {"video": np.arange(16 * 3).reshape(16, 3).astype(np.uint8), "motion": {"index": np.arange(16)}}
sharded = shard_batch(batch, mesh)
assert sharded["video"].sharding == batch_sharding(mesh)
assert sharded["video"].addressable_shards[0].data.shape == (2, 3)
np.testing.assert_array_equal(sharded["motion"]["index"], np.arange(16))
assert "make it a multiple of 8" in refused(shard_batch, {"video": np.zeros((12, 3))}, mesh)
""",
    )


def test_masters_lie_in_parts_and_what_computes_is_whole_unless_asked_otherwise():
    on_devices(
        8,
        """
kernel, odd, bias = (3, 3, 320, 640), (3, 3, 35, 35), (1280,)
data_parallel = make_mesh({"replica": -1})
assert parameter_spec(kernel, data_parallel, "masters") == P(None, None, None, "inner")
assert parameter_spec(kernel, data_parallel, "compute") == P(None, None, None, None)
assert parameter_spec(odd, data_parallel, "masters") == P(None, None, None, None)
assert parameter_spec(bias, data_parallel, "masters") == P()
split = make_mesh({"replica": 2, "fsdp": 2, "tensor": 2})
assert parameter_spec(kernel, split, "compute") == P(None, None, "tensor", "fsdp")
slices = make_mesh({"slice": 2, "replica": 4})
assert parameter_spec(kernel, slices, "masters") == P(None, None, None, "inner")  # whole in every slice
refused_rules = refused(check_rules, {"batch": ("inner",), "frames": ("inner",)})
assert "once" in refused_rules, refused_rules
assert "must be different ones" in refused(check_rules, {"batch": ("inner", "inner"), "frames": ()})
clip = {"video": np.zeros((8, 6, 4, 4, 3)), "reference": np.zeros((8, 4, 4, 3))}
context = make_mesh({"replica": 4, "context": 2})
assert shard_batch(clip, context)["video"].addressable_shards[0].data.shape == (2, 3, 4, 4, 3)
assert shard_batch(clip, context)["reference"].addressable_shards[0].data.shape == (2, 4, 4, 3)
assert "make data.frames a multiple" in refused(shard_batch, {"video": np.zeros((8, 5, 3))}, context)
""",
    )


def test_large_meshes_split_every_width_of_stable_diffusion():
    """256 devices: 320 channels do not divide by 256, but by 16 twice."""
    on_devices(
        256,
        """
mesh = make_mesh({"replica": -1})
assert mesh.shape["outer"] == mesh.shape["inner"] == 16
for shape in ((3, 3, 320, 320), (320, 320), (3, 3, 1280, 640), (768, 320), (5120, 1280)):
    spec = parameter_spec(shape, mesh, "masters")
    used = [axis for part in spec if part for axis in ((part,) if isinstance(part, str) else part)]
    assert sorted(used) == ["inner", "outer"], (shape, spec)
""",
    )


def test_a_step_gives_the_same_on_eight_devices_as_on_one():
    on_devices(
        8,
        """
import optax
rng = np.random.default_rng(0)
batch = {"x": rng.normal(size=(8, 4, 6)).astype(np.float32), "y": rng.normal(size=(8, 4, 2)).astype(np.float32)}
optimizer = optax.adamw(1e-2)
def step(state, batch):
    params, moments = state
    def loss(params):
        hidden = jax.nn.silu(batch["x"] @ params["in"] + params["bias"])
        return jnp.mean((hidden @ params["out"] - batch["y"]) ** 2)
    value, gradient = jax.value_and_grad(loss)(params)
    updates, moments = optimizer.update(gradient, moments, params)
    return (optax.apply_updates(params, updates), moments), value
def losses(sizes):
    mesh = make_mesh(sizes)
    params = {"in": rng0.normal(size=(6, 8)).astype(np.float32), "bias": np.zeros(8, np.float32),
              "out": rng0.normal(size=(8, 2)).astype(np.float32)}
    state = (params, optimizer.init(params))
    split = layout(state, mesh, "masters")
    run = jax.jit(step, in_shardings=(split, batch_sharding(mesh)), out_shardings=(split, replicated(mesh)))
    state, found = jax.device_put(state, split), []
    for _ in range(3):
        state, value = run(state, shard_batch(batch, mesh))
        found.append(float(value))
    return found
found = []
for sizes in ({"replica": 1}, {"replica": 8}, {"replica": 2, "fsdp": 2, "tensor": 2}):
    rng0 = np.random.default_rng(1)
    found.append(losses(sizes))
np.testing.assert_allclose(found[1], found[0], rtol=1e-6)
np.testing.assert_allclose(found[2], found[0], rtol=1e-6)
""",
    )


TWO_PROCESSES = """
import sys
from champ_jax.parallel.multihost import initialise
initialise()
import jax, jax.numpy as jnp, numpy as np
from champ_jax.checkpoint import store
from champ_jax.parallel.mesh import make_mesh, replicated, shard_batch
from champ_jax.parallel.sharding import layout as layout_of
assert jax.process_count() == 2 and len(jax.devices()) == 4
mesh = make_mesh({"replica": 2, "fsdp": 2})
mine = {"x": np.full((4, 3), jax.process_index() + 1, np.float32)}
batch = shard_batch(mine, mesh)
assert batch["x"].shape == (8, 3)
total = jax.jit(lambda batch: batch["x"].sum(), out_shardings=replicated(mesh))(batch)
assert float(total) == 36
state = {"w": np.arange(8192, dtype=np.float32).reshape(128, 64)}
layout = layout_of(state, mesh, "masters")
w = jax.make_array_from_callback((128, 64), layout["w"], lambda index: state["w"][index])
with store.Saver(sys.argv[1], 2) as saver:
    saver.check_room({"w": w})
    saver.save(5, {"w": w}, {"step": 5})
    saver.wait()
struct = {"w": jax.ShapeDtypeStruct((128, 64), jnp.float32, sharding=layout["w"])}
restored, meta, step = store.restore_newest(sys.argv[1], struct)
assert meta == {"step": 5} and step == 5
for shard in restored["w"].addressable_shards:
    np.testing.assert_array_equal(shard.data, state["w"][shard.index])
"""


def test_two_processes_share_a_batch_and_a_checkpoint(tmp_path):
    import socket

    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2",
        multihost.COORDINATOR: f"localhost:{port}",
        multihost.COUNT: "2",
    }
    command = [sys.executable, "-c", TWO_PROCESSES, str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=REPOSITORY, env={**environment, multihost.INDEX: str(index)}) for index in (0, 1)]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    # One process with one device reads what two wrote.
    from champ_jax.checkpoint import store

    restored, _, _ = store.restore_newest(tmp_path, {"w": jax.ShapeDtypeStruct((128, 64), "float32")})
    assert restored["w"].ravel().tolist() == list(range(8192))


def test_incomplete_settings_of_several_processes(monkeypatch):
    monkeypatch.setenv(multihost.COORDINATOR, "localhost:1")
    with pytest.raises(UserError, match=f"{multihost.COUNT} and {multihost.INDEX} go together"):
        multihost.initialise()


def test_one_device_needs_no_settings():
    assert make_mesh({"replica": -1}).size == len(jax.devices())
