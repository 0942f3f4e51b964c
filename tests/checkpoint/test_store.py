"""Checkpoints: what was saved comes back bit for bit; what is damaged is set aside by name. Rows: docs/reliability.md."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.bit_flips import flip
from champ_jax.checkpoint import integrity, store
from champ_jax.checkpoint.store import Saver, restore_newest
from champ_jax.errors import UserError, WorkdirError
from champ_jax.trees import flatten

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


def save(directory, step, tree, meta, keep=100):
    """One step, on the disk when this returns."""
    with Saver(directory, keep) as saver:
        saver.save(step, tree, meta)
        saver.wait()


@pytest.fixture
def saved(tmp_path):
    """A run with the steps 10 and 20."""
    for step in (10, 20):
        save(tmp_path, step, make_state(step), {"config_hash": "abc", "data": {"index": step}})
    return tmp_path


def restored_step(directory) -> int:
    """The step that a run would go on from, after checking its bits."""
    state, _, step = restore_newest(directory, abstract(make_state()))
    assert_same_bits(state, make_state(step))
    return step


def test_round_trip_is_bit_exact_for_any_container_and_dtype(saved):
    state, meta, step = restore_newest(saved, abstract(make_state()))
    assert_same_bits(state, make_state(20))
    assert meta == {"config_hash": "abc", "data": {"index": 20}} and step == 20


def test_saving_the_same_step_again_replaces_it(saved):
    save(saved, 20, make_state(3), {})
    assert_same_bits(restore_newest(saved, abstract(make_state()))[0], make_state(3))


def test_what_is_saved_is_what_was_given_even_if_it_is_donated_at_once(tmp_path):
    """Training goes on in the same buffers while the disk is written."""
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x * 1.5 + 1, tree), donate_argnums=0)
    tree = {"w": jnp.arange(2_000_000, dtype=jnp.float32)}
    with Saver(tmp_path, 100) as saver:
        for number in range(5):
            wanted = np.array(tree["w"])
            saver.save(number, tree, {})
            tree = step(tree)
            saver.wait()
            restored, _, _ = restore_newest(tmp_path, {"w": jax.ShapeDtypeStruct((2_000_000,), jnp.float32)})
            np.testing.assert_array_equal(restored["w"], wanted)


def test_an_empty_folder_and_a_lost_manifest_are_no_steps(saved, caplog):
    """Row 10."""
    (saved / "00000030").mkdir()
    assert store.latest(saved) == 20 and restored_step(saved) == 20
    assert "00000030 is passed over" in caplog.text
    (saved / "00000020" / integrity.MANIFEST).unlink()
    assert store.describe_steps(saved) == [(10, "valid"), (20, "unfinished"), (30, "unfinished")]
    assert restored_step(saved) == 10


def test_an_unfinished_first_save_is_no_checkpoint(tmp_path):
    assert restore_newest(tmp_path / "nowhere", {}) is None
    (tmp_path / "00000010" / "arrays").mkdir(parents=True)
    assert restore_newest(tmp_path, {}) is None


def test_when_all_steps_are_damaged_nothing_starts_anew_silently(saved):
    """Row 12; also when asked again."""
    for step in (10, 20):
        flip(saved / f"{step:08d}" / integrity.MANIFEST, 100)
    for _ in range(2):
        with pytest.raises(WorkdirError, match="all 2 checkpoints .* are damaged") as error:
            restore_newest(saved, abstract(make_state()))
        assert error.value.exit_code == 78
    assert sorted(path.name for path in saved.iterdir()) == ["00000010.bad", "00000020.bad"]


def test_the_newest_are_kept(tmp_path):
    with Saver(tmp_path, 2) as saver:
        for step in range(1, 8):
            saver.save(step, {"x": jnp.ones(2)}, {})
    assert store.steps(tmp_path) == [6, 7]


def test_unfinished_steps_do_not_push_out_good_ones(saved):
    for step in (5, 30, 40):
        (saved / f"{step:08d}").mkdir()
    save(saved, 50, make_state(50), {}, keep=2)
    assert [step for step, state in store.describe_steps(saved) if state == "valid"] == [20, 50]
    assert 5 not in store.steps(saved)


def largest(folder) -> Path:
    """The file of a step that holds most of its values."""
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("name", ["data", "metadata", "manifest"])
def test_a_flipped_bit_anywhere_sets_the_step_aside(saved, name, caplog):
    """Row 8; benchmarks/bit_flips.py does it 200 times over all files."""
    folder = saved / "00000020"
    path = {"data": largest(folder), "metadata": folder / "arrays" / "_CHECKPOINT_METADATA", "manifest": folder / integrity.MANIFEST}[name]
    flip(path, 8 * (path.stat().st_size // 2) + 3)
    assert restored_step(saved) == 10
    assert "00000020 is damaged and set aside" in caplog.text
    assert store.steps(saved) == [10] and (saved / "00000020.bad").is_dir()


def test_a_bit_that_flips_before_it_is_written(saved, monkeypatch):
    """Row 8: files that are all right, of an array that is not."""
    described = store.describe

    def other(arrays):
        made = described(arrays)
        made["params/vae/bias"]["fingerprint"] ^= 4
        return made

    with monkeypatch.context() as patch:
        patch.setattr(store, "describe", other)
        save(saved, 30, make_state(30), {})
    assert restored_step(saved) == 20


def test_truncated_and_missing_files(saved, caplog):
    """Row 9."""
    save(saved, 30, make_state(30), {})
    path = largest(saved / "00000030")
    path.write_bytes(path.read_bytes()[:-5])
    largest(saved / "00000020").unlink()
    assert restored_step(saved) == 10
    assert f"{path.name} should have" in caplog.text and "it is missing" in caplog.text


def test_an_edited_manifest(saved, caplog):
    """Row 11."""
    path = saved / "00000020" / integrity.MANIFEST
    content = json.loads(path.read_text())
    content["meta"]["config_hash"] = "other"
    path.write_text(json.dumps(content, sort_keys=True))
    assert restored_step(saved) == 10
    assert "changed after it was written" in caplog.text


def test_order_is_by_step_and_not_by_time(saved):
    """Row 32: clocks jump, and a folder that was renamed is not the step it says."""
    for path in (saved / "00000010", saved / "00000010" / integrity.MANIFEST):
        os.utime(path, (2**31, 2**31))
    assert restored_step(saved) == 20
    shutil.copytree(saved / "00000010", saved / "00000090")
    assert restored_step(saved) == 20 and (saved / "00000090.bad").is_dir()


def test_a_second_damaged_step_of_a_number_is_kept_too(saved):
    for _ in range(2):
        flip(largest(saved / "00000020"), 1000)
        assert restored_step(saved) == 10
        save(saved, 20, make_state(20), {})
    assert {"00000020.bad", "00000020.bad1"} <= {path.name for path in saved.iterdir()}


def test_another_model_is_refused_with_all_differences(saved):
    wanted = abstract(make_state())
    wanted["params"]["denoiser"]["conv"]["kernel"] = jax.ShapeDtypeStruct((3, 3, 4, 16), jnp.float32)
    wanted["params"]["vae"] = {"scale": jax.ShapeDtypeStruct((16,), jnp.bfloat16)}
    with pytest.raises(UserError) as error:
        restore_newest(saved, wanted)
    message = str(error.value)
    assert "3 differences" in message
    assert "missing: params/vae/scale" in message
    assert "not in the model: params/vae/bias" in message
    assert "params/denoiser/conv/kernel: stored float32[3, 3, 4, 8], expected float32[3, 3, 4, 16]" in message
    assert store.steps(saved) == [10, 20], "a step that fits nothing is not a damaged one"


def test_no_room_is_said_before_anything_is_written(saved, monkeypatch):
    """Row 6."""
    usage = shutil.disk_usage(saved)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(UserError, match="no room for checkpoints in .* MB are needed"), Saver(saved, 2) as saver:
        saver.save(30, make_state(), {})
    assert store.steps(saved) == [10, 20]
    with pytest.raises(WorkdirError, match="no room"):
        Saver(saved, 2).check_room(abstract(make_state()))


def test_a_place_that_cannot_be_written(tmp_path):
    """Row 7."""
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="cannot write checkpoints to .*file/run") as error:
        Saver(tmp_path / "file" / "run", 2).check_room({"x": jnp.ones(2)})
    assert error.value.exit_code == 78


FULL_DISK = """
import resource, sys
import jax.numpy as jnp
from champ_jax.checkpoint.store import Saver
from champ_jax.errors import UserError
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Saver(sys.argv[1], 2) as saver:
    saver.save(1, {"x": jnp.arange(1000.0)}, {})
    saver.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        saver.save(2, {"x": jnp.sin(jnp.arange(1_000_000.0))}, {})
        saver.wait()
    except UserError as error:
        print("said:", error)
"""


def test_the_disk_fills_up_while_a_step_is_written(tmp_path):
    """Row 6: the step before stays, nothing of the new one is left, the error names folder and step."""
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"said: cannot save step 2 in {tmp_path}" in done.stdout
    assert store.describe_steps(tmp_path) == [(1, "valid")] and [path.name for path in tmp_path.iterdir()] == ["00000001"]


def test_a_failed_save_is_tried_again_once(saved, monkeypatch, caplog):
    """Row 5: it surfaces with the next save, the state in memory is as it was, and a second failure ends the run."""

    def failing(*_):
        raise OSError(28, "No space left on device")

    state = make_state(30)
    with Saver(saved, 5) as saver:
        with monkeypatch.context() as patch:
            patch.setattr(store, "write_manifest", failing)
            saver.save(30, state, {})
            saver._thread.join()
        saver.save(40, state, {})
        assert "cannot save step 30" in caplog.text and "trying again with step 40" in caplog.text
        saver.wait()
        assert_same_bits(restore_newest(saved, abstract(state))[0], state)
        monkeypatch.setattr(store, "write_manifest", failing)
        saver.save(50, state, {})
        saver.save(60, state, {})
        with pytest.raises(UserError, match="cannot save step 60 .*No space left.*is kept"):
            saver.save(70, state, {})
    assert [step for step, _ in store.describe_steps(saved)] == [10, 20, 40]


def test_leaving_without_waiting_warns_of_a_failed_save(saved, monkeypatch, caplog):
    """Row 5: an exception elsewhere must not hide that the newest step is not there."""
    monkeypatch.setattr(store, "write_manifest", lambda *_: 1 / 0)
    with Saver(saved, 5) as saver:
        saver.save(30, make_state(30), {})
    assert "cannot save step 30" in caplog.text
    assert store.steps(saved) == [10, 20]


def test_old_steps_that_cannot_be_removed_do_not_cost_the_new_one(saved, monkeypatch, caplog):
    monkeypatch.setattr(store, "_prune", lambda *_: os.remove(saved / "nothing"))
    save(saved, 30, make_state(30), {}, keep=1)
    assert restored_step(saved) == 30
    assert "cannot be removed" in caplog.text


def test_unfinished_steps_take_no_part_in_the_room_that_is_needed(saved, monkeypatch):
    """Row 6: of three checkpoints, two are there; a folder that a crash left is none."""
    size = integrity.array_bytes(flatten(make_state()))
    usage = shutil.disk_usage(saved)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=size))
    Saver(saved, 2).check_room(abstract(make_state()))
    (saved / "00000020" / integrity.MANIFEST).unlink()
    with pytest.raises(WorkdirError, match="no room"):
        Saver(saved, 2).check_room(abstract(make_state()))


def test_a_step_of_another_version_is_refused_and_left_alone(saved, monkeypatch):
    monkeypatch.setattr(integrity, "FORMAT", integrity.FORMAT + 1)
    with pytest.raises(UserError, match="00000020 has format 2, this version of champ_jax reads 3") as error:
        restore_newest(saved, abstract(make_state()))
    assert error.value.exit_code == 2 and store.steps(saved) == [10, 20]
    assert [step for step, state in store.describe_steps(saved) if "format" in state] == [10, 20]


def test_reading_one_step_changes_nothing(saved):
    """A model is also taken from runs of others."""
    tree, meta = store.restore(saved, 10, abstract(make_state()))
    assert_same_bits(tree, make_state(10))
    assert meta["data"] == {"index": 10}
    flip(largest(saved / "00000010"), 1000)
    with pytest.raises(UserError, match="00000010 is damaged"):
        store.restore(saved, 10, abstract(make_state()))
    assert store.steps(saved) == [10, 20]


KILLED_WHILE_SAVING = """
import os, sys
import jax.numpy as jnp
from champ_jax.checkpoint import integrity, store
directory, module, name, count = sys.argv[1:]
count = int(count)
with store.Saver(directory, 2) as saver:
    for step in (1, 2):
        saver.save(step, {"x": jnp.arange(50_000.0) + step, "y": {"z": jnp.ones(3)}}, {})
        saver.wait()
    place = {"store": store, "integrity": integrity, "os": os, "shutil": store.shutil, "orbax": store.ocp, "path": store.Path}[module]
    original = getattr(place, name)
    def dies(*args, **kwargs):
        global count
        count -= 1
        if count < 0:
            os._exit(9)
        return original(*args, **kwargs)
    setattr(place, name, dies)
    saver.save(3, {"x": jnp.arange(50_000.0) + 3, "y": {"z": jnp.ones(3)}}, {})
    saver.wait()
print("survived")
"""
POINTS = {
    "before the folder": ("store", "_prepare", 0, 2),
    "before the arrays": ("orbax", "save_async", 0, 2),
    "while the arrays are written": ("store", "_all_written", 0, 2),
    "after the arrays": ("store", "write_manifest", 0, 2),
    "within the checksums": ("integrity", "file_checksums", 0, 2),
    "before the manifest is flushed": ("os", "fsync", 0, 2),
    "before the rename": ("os", "replace", 0, 2),
    "after the rename": ("os", "fsync", 1, 3),
    "before old steps are removed": ("store", "_prune", 0, 3),
    "before an old manifest is removed": ("path", "unlink", 1, 3),
    "before an old step is removed": ("shutil", "rmtree", 1, 3),
}


@pytest.mark.parametrize(("module", "name", "count", "kept"), POINTS.values(), ids=POINTS)
def test_killed_while_saving(tmp_path, module, name, count, kept):
    """Row 2: at eleven points of a save."""
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path), module, name, str(count)]
    assert subprocess.run(command, cwd=REPOSITORY, env=os.environ).returncode == 9
    wanted = {"x": jax.ShapeDtypeStruct((50_000,), jnp.float32), "y": {"z": jax.ShapeDtypeStruct((3,), jnp.float32)}}
    state, _, step = restore_newest(tmp_path, wanted)
    assert step == kept
    np.testing.assert_array_equal(state["x"], np.arange(50_000.0) + step)
    save(tmp_path, 4, state, {}, keep=2)
    assert [step for step, _ in store.describe_steps(tmp_path)][-1] == 4
    assert not list(tmp_path.glob("*.bad"))


SIGNALLED = """
import sys, time
import jax.numpy as jnp
from champ_jax.checkpoint import store
from champ_jax.train.interrupt import StopRequest
finish = store.write_manifest
def write(*args):
    print("writing", flush=True)
    time.sleep(3)
    finish(*args)
store.write_manifest = write
with StopRequest() as stop, store.Saver(sys.argv[1], 2) as saver:
    saver.save(1, {"x": jnp.arange(4.0)}, {})
    saver.wait()
"""


def test_signals_while_saving(tmp_path):
    """Row 4: the second one interrupts; the step is whole or not there."""
    command = [sys.executable, "-c", SIGNALLED, str(tmp_path)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)  # Python runs handlers of signals that come together in the order of their numbers
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    assert store.describe_steps(tmp_path) in ([(1, "valid")], [(1, "unfinished")])
    restore_newest(tmp_path, {"x": jax.ShapeDtypeStruct((4,), jnp.float32)})


def test_bit_flips_over_all_files():
    """Row 8: a sample of what benchmarks/bit_flips.py measures."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.bit_flips", "--flips", "20"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and "20 of 20" in done.stdout, done.stdout + done.stderr[-3000:]


RESTORED_ON_OTHER_MESHES = """
import os, sys
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
import jax, jax.numpy as jnp, numpy as np
from champ_jax.checkpoint import store
from champ_jax.parallel.mesh import make_mesh
from champ_jax.parallel.sharding import layout
value = {"w": jnp.arange(8 * 16, dtype=jnp.float32).reshape(8, 16), "b": jnp.arange(3, dtype=jnp.bfloat16)}
def on(sizes, count):
    return layout(value, make_mesh(sizes, jax.devices()[:count]), "masters")
layouts = [on({"fsdp": 8}, 8), on({"fsdp": 2, "tensor": 2}, 4), on({"replica": 2}, 2), on({}, 1), on({"replica": 8}, 8)]
for step, (old, new) in enumerate(zip(layouts, layouts[1:])):
    with store.Saver(sys.argv[1], 9) as saver:
        saver.save(step, jax.device_put(value, old), {})
        saver.wait()
    struct = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), value, new)
    restored, _, _ = store.restore_newest(sys.argv[1], struct)
    for key in value:
        assert restored[key].sharding == new[key]
        np.testing.assert_array_equal(restored[key], value[key])
"""


def test_restored_on_other_meshes(tmp_path):
    """Row 13: 8, 4, 2, 1 and 8 devices, bit for bit."""
    subprocess.run([sys.executable, "-c", RESTORED_ON_OTHER_MESHES, str(tmp_path)], cwd=REPOSITORY, check=True)
