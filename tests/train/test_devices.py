"""Eight devices take the same steps as one, however state and batches lie on them, and go on from each other's checkpoints."""

import json
import os
import subprocess
import sys

import pytest

from tests.train.conftest import M2P, UNET

CODE = """
import json, sys
import jax
from ml_collections import ConfigDict
from champ_jax.config import load_config
from champ_jax.train.loop import train
for run in json.loads(sys.argv[1]):
    stage = run["stage"]
    config = load_config(f"demo_{stage.lower()}").unlock()
    config.data.update({"directory": run["data"], "split": "train", "validation_split": "test", "size": 32, "batch_size": 8})
    config.data.update(run["frames"])
    config.optim.update({"steps": run["steps"], "warmup": 1, "decay": 0.0})
    config.log.update({"scalars": 1, "evaluate": 100, "save": 100, "validation_batches": 1, "sample_steps": 0})
    config.init_from = run["weights"]
    config.model = ConfigDict(run["model"])
    config.mesh = ConfigDict(run["mesh"])
    train(config.lock(), run["workdir"])
    lines = [json.loads(line) for line in open(run["workdir"] + "/metrics.jsonl")]
    print(json.dumps([line["loss"] for line in lines if line["group"] == "train"]))
"""
LAYOUTS = {"data parallel": {"replica": 8}, "two slices, partly sharded": {"slice": 2, "replica": 2, "fsdp": 2}}
FURTHER = {"fully sharded": {"fsdp": 8}, "both": {"replica": 2, "fsdp": 4}, "tensor": {"replica": 4, "tensor": 2}}

MOVES = ((8, {"replica": 2, "fsdp": 4}), (4, {"replica": 4}), (2, {"fsdp": 2}), (1, {"replica": 1}), (8, {"replica": 8}))


def train(devices: int, runs: list[dict]) -> list[list[float]]:
    """Losses of runs, one after another in one process with so many devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run([sys.executable, "-c", CODE, json.dumps(runs)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def stage_a(data, workdir, mesh, steps=2):
    return {"stage": "A", "data": str(data), "workdir": str(workdir), "mesh": mesh, "steps": steps, "weights": "",
            "frames": {"frames": 8}, "model": {"m2p": M2P}}  # fmt: skip


@pytest.mark.parametrize("layouts", [LAYOUTS, pytest.param(FURTHER, marks=pytest.mark.slow)], ids=["usual", "further"])
def test_every_layout_gives_the_losses_of_one_device(layouts, eight_clips, tmp_path):
    data, _ = eight_clips
    (one,) = train(1, [stage_a(data, tmp_path / "one", {"replica": 1})])
    runs = [stage_a(data, tmp_path / str(i), mesh) for i, mesh in enumerate(layouts.values())]
    for name, losses in zip(layouts, train(8, runs), strict=True):
        assert losses == pytest.approx(one, rel=1e-6), name


@pytest.mark.slow
def test_frames_over_devices(eight_clips, weights, tmp_path):
    """Stage C with the frames of a clip on several devices: temporal attention reads them all."""
    data, _ = eight_clips
    model = {"kinds": ("dwpose",), "clip": None, "unet": {**UNET, "temporal": {"heads": 2, "groups": 4}}}
    model["guidance"] = {"channels": (8,), "patch": 4, "attention": False}
    stage_b = {"stage": "B", "data": str(data), "workdir": str(tmp_path / "b"), "mesh": {"replica": 1}, "steps": 1,
               "weights": str(weights), "frames": {"frames": 1}, "model": {**model, "unet": UNET}}  # fmt: skip
    runs = [
        {**stage_b, "stage": "C", "workdir": str(tmp_path / f"c{i}"), "mesh": mesh, "steps": 2, "model": model,
         "weights": str(tmp_path / "b" / "weights"), "frames": {"frames": 4, "first_frames": 4, "stride": 1}}
        for i, mesh in enumerate(({"replica": 1}, {"replica": 4, "context": 2}, {"replica": 2, "context": 4}))
    ]  # fmt: skip
    _, one = train(1, [stage_b, runs[0]])
    for losses in train(8, runs[1:]):
        assert losses == pytest.approx(one, rel=1e-6)


@pytest.mark.slow
def test_other_meshes_go_on(eight_clips, tmp_path):
    """A run that moves from 8 devices to 4, 2, 1 and back is the run that stayed on one device."""
    data, _ = eight_clips
    (one,) = train(1, [stage_a(data, tmp_path / "one", {"replica": 1}, steps=5)])
    losses = []
    for steps, (devices, mesh) in enumerate(MOVES, 1):
        (losses,) = train(devices, [stage_a(data, tmp_path / "moved", mesh, steps=steps)])
    assert losses == pytest.approx(one, rel=1e-5)
