"""Efficiency: a chip by its name, a run's log by arithmetic, and reasons where a device does not tell."""

import json
from types import SimpleNamespace

import pytest

from champ_jax.errors import UserError
from champ_jax.evaluate.efficiency import chip_of, of_run


@pytest.mark.parametrize(
    ("kind", "name"), [("TPU v5 lite", "v5e"), ("TPU v5p", "v5p"), ("TPU v6 lite", "v6e"), ("NVIDIA H200", "h200"), ("cpu", None)]
)
def test_chips_by_the_names_of_jax(kind, name):
    chip = chip_of(SimpleNamespace(device_kind=kind))
    assert chip is None if name is None else chip.name == name


def log(folder, *lines):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def seconds(step, training, waited, compiled=0.0):
    return {"step": step, "group": "seconds", "training": training, "input": waited, "compile": compiled}


def test_a_run_by_its_log(tmp_path):
    memory = [{"step": step, "group": "memory", "peak_memory": used} for step, used in ((10, 1.5), (20, 2.5))]
    program = {"step": 1, "group": "program", "model_flops": 4e12, "ceiling": 0.5, "frames": 24.0, "devices": 2, "peak_flops": 1e12}
    log(tmp_path, program, *memory, seconds(10, 5, 1, 30), seconds(20, 38, 2), seconds(30, 18, 2), seconds(40, 58, 2))
    found = of_run(tmp_path)
    assert found["step_seconds"] == 4 and found["step_seconds_p90"] == pytest.approx(5.6) and found["counts"]["step_seconds"] == 3
    assert found["peak_memory"] == 2.5
    assert found["input_wait"] == pytest.approx(6 / 120) and found["compile_seconds"] == 30
    assert found["train_frames_per_second"] == 6 and found["mfu"] == pytest.approx(0.5) and found["mfu_of_ceiling"] == pytest.approx(1.0)


def test_what_a_run_does_not_tell(tmp_path):
    log(tmp_path, seconds(10, 5, 1, 30), seconds(20, 38, 2))
    assert "did not log" in of_run(tmp_path)["notes"]["mfu"]
    log(tmp_path, seconds(10, 5, 1, 30), seconds(20, 38, 2, 3))
    assert "compiled something" in of_run(tmp_path)["notes"]["step_seconds"]
    log(tmp_path, seconds(10, 5, 1, 30))
    with pytest.raises(UserError, match="1 logged lines"):
        of_run(tmp_path)
    with pytest.raises(UserError, match="no metrics.jsonl"):
        of_run(tmp_path / "none")
