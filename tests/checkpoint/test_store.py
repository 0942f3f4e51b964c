"""Checkpoints: what was saved comes back bit for bit, and what is damaged or does not fit is refused by name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from champ_jax.checkpoint import integrity, store
from champ_jax.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]


def make_state(seed: int = 0):
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "denoiser": {"conv": {"kernel": jax.random.normal(keys[0], (3, 3, 4, 8))}},
        "vae": {"bias": jax.random.normal(keys[1], (16,), jnp.bfloat16)},
    }
    optimizer = optax.adamw(1e-3).init(params)
    return {"params": params, "optimizer": optimizer, "key": jax.random.key_data(keys[2]), "step": jnp.int32(7)}


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def assert_same_bits(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def saved(tmp_path):
    """A run with the steps 10 and 20."""
    for step in (10, 20):
        store.save(tmp_path, step, make_state(step), {"config_hash": "abc", "data": {"index": step}})
    return tmp_path


def test_round_trip_is_bit_exact_for_any_container_and_dtype(saved):
    state, meta = store.restore(saved, 20, abstract(make_state()))
    assert_same_bits(state, make_state(20))
    assert meta == {"config_hash": "abc", "data": {"index": 20}}


def test_saving_the_same_step_again_replaces_it(saved):
    store.save(saved, 20, make_state(3), {})
    assert_same_bits(store.restore(saved, 20, abstract(make_state()))[0], make_state(3))


def test_latest_is_the_newest_valid_step(saved, caplog):
    assert store.latest(saved) == 20
    (saved / "00000030").mkdir()
    assert store.latest(saved) == 20
    assert "00000030 is passed over" in caplog.text
    (saved / "00000020" / integrity.MANIFEST).unlink()
    assert store.latest(saved) == 10


def test_an_unfinished_first_save_is_no_checkpoint(tmp_path):
    assert store.latest(tmp_path / "nowhere") is None
    (tmp_path / "00000010" / "arrays").mkdir(parents=True)
    assert store.latest(tmp_path) is None


def test_when_all_steps_are_damaged_nothing_starts_anew_silently(saved):
    for step in (10, 20):
        path = saved / f"{step:08d}" / integrity.MANIFEST
        path.write_text(path.read_text().replace('"step"', '"stop"'))
    with pytest.raises(UserError, match="all 2 checkpoints .* are damaged"):
        store.latest(saved)


def test_keep_last_and_every(tmp_path):
    for step in range(1, 8):
        store.save(tmp_path, step, {"x": jnp.ones(2)}, {}, keep_last=2, keep_every=3)
    assert store.steps(tmp_path) == [3, 6, 7]


def data_files(folder):
    """The files of a step that hold array values."""
    return [path for path in (folder / "arrays").rglob("d/*") if path.is_file()]


def test_flipped_bits_never_reach_the_run(tmp_path):
    values = jnp.asarray(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))
    folder = store.save(tmp_path, 1, {"a": {"kernel": values}}, {})
    wanted = {"a": {"kernel": jax.ShapeDtypeStruct((64, 64), jnp.float32)}}
    rng = np.random.default_rng(1)
    named = 0
    for path in data_files(folder):
        good = path.read_bytes()
        for position in rng.integers(0, len(good), 40):
            bad = bytearray(good)
            bad[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(bad)
            try:
                # Some bytes of the files are never read: then nothing is damaged.
                assert_same_bits(store.restore(tmp_path, 1, wanted)[0], {"a": {"kernel": values}})
            except UserError as error:
                assert "is damaged" in str(error)
                named += "a/kernel" in str(error)
        path.write_bytes(good)
    assert named > 10
    assert_same_bits(store.restore(tmp_path, 1, wanted)[0], {"a": {"kernel": values}})


def test_truncated_and_missing_files_are_refused(saved):
    path = max(data_files(saved / "00000020"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=f"damaged: .*{path.name} should have"):
        store.restore(saved, 20, abstract(make_state()))
    path.unlink()
    assert store.latest(saved) == 10


def test_an_edited_manifest_is_refused(saved):
    path = saved / "00000020" / integrity.MANIFEST
    content = json.loads(path.read_text())
    content["meta"]["config_hash"] = "other"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="changed after it was written"):
        store.restore(saved, 20, abstract(make_state()))


def test_another_model_is_refused_with_all_differences(saved):
    wanted = abstract(make_state())
    wanted["params"]["denoiser"]["conv"]["kernel"] = jax.ShapeDtypeStruct((3, 3, 4, 16), jnp.float32)
    wanted["params"]["vae"] = {"scale": jax.ShapeDtypeStruct((16,), jnp.bfloat16)}
    with pytest.raises(UserError) as error:
        store.restore(saved, 20, wanted)
    message = str(error.value)
    assert "3 differences" in message
    assert "missing: params/vae/scale" in message
    assert "not in the model: params/vae/bias" in message
    assert "params/denoiser/conv/kernel: stored float32[3, 3, 4, 8], expected float32[3, 3, 4, 16]" in message


def test_no_room_is_said_before_anything_is_written(saved, monkeypatch):
    usage = shutil.disk_usage(saved)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(UserError, match="no room for a checkpoint in .* it takes 0 MB"):
        store.save(saved, 30, make_state(), {})
    assert store.steps(saved) == [10, 20]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write checkpoints"):
        store.save(tmp_path / "file" / "run", 1, {"x": jnp.ones(2)}, {})


KILLED_WHILE_SAVING = """
import os, sys
import jax.numpy as jnp
from champ_jax.checkpoint import integrity, store
directory, point = sys.argv[1:]
store.save(directory, 1, {"x": jnp.arange(4.0)}, {})
if point == "before the arrays":
    store.ocp.save = lambda *args: os._exit(9)
elif point == "before the manifest":
    store.write_manifest = lambda *args: os._exit(9)
else:
    integrity.os.replace = lambda *args: os._exit(9)
store.save(directory, 2, {"x": jnp.arange(4.0) + 1}, {})
"""


@pytest.mark.parametrize("point", ["before the arrays", "before the manifest", "before the rename"])
def test_killed_while_saving(tmp_path, point):
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path), point]
    assert subprocess.run(command, cwd=REPOSITORY, env=os.environ).returncode == 9
    assert store.latest(tmp_path) == 1
    state, _ = store.restore(tmp_path, 1, {"x": jax.ShapeDtypeStruct((4,), jnp.float32)})
    np.testing.assert_array_equal(state["x"], np.arange(4.0))


RESTORED_ON_OTHER_MESHES = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
import jax, jax.numpy as jnp, numpy as np
from champ_jax.checkpoint import store
from champ_jax.parallel.mesh import make_mesh
from champ_jax.parallel.sharding import layout
value = {"w": jnp.arange(8 * 16, dtype=jnp.float32).reshape(8, 16), "b": jnp.arange(3, dtype=jnp.bfloat16)}
def on(sizes, count):
    return layout(value, make_mesh(sizes, jax.devices()[:count]), "masters")
layouts = [on({"fsdp": 8}, 8), on({"fsdp": 2, "tensor": 2}, 4), on({"replica": 2}, 2), on({}, 1), on({"replica": 8}, 8)]
for step, (old, new) in enumerate(zip(layouts, layouts[1:])):
    store.save(sys.argv[1], step, jax.device_put(value, old), {})
    struct = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), value, new)
    restored, _ = store.restore(sys.argv[1], step, struct)
    for key in value:
        assert restored[key].sharding == new[key]
        np.testing.assert_array_equal(restored[key], value[key])
"""


def test_restored_on_other_meshes(tmp_path):
    subprocess.run([sys.executable, "-c", RESTORED_ON_OTHER_MESHES, str(tmp_path)], cwd=REPOSITORY, check=True)
