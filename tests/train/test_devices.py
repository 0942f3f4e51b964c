"""Data parallel: eight devices take the same step as one."""

import json
import os
import subprocess
import sys

import pytest

CODE = """
import json, sys
import jax
from ml_collections import ConfigDict
from champ_jax.config import load_config
from champ_jax.train.loop import train
data, workdir, model = sys.argv[1:]
config = load_config("demo_a").unlock()
config.data.update({"directory": data, "split": "train", "validation_split": "test", "size": 32, "batch_size": 8, "frames": 8})
config.optim.update({"steps": 2, "warmup": 1})
config.log.update({"scalars": 1, "evaluate": 100, "save": 100, "validation_batches": 1})
config.model = ConfigDict({"m2p": json.loads(model)})
train(config.lock(), workdir)
lines = [json.loads(line) for line in open(workdir + "/metrics.jsonl")]
print(json.dumps([jax.device_count()] + [line["loss"] for line in lines if line["group"] == "train"]))
"""


def losses(devices: int, data, workdir, model) -> list[float]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-c", CODE, str(data), str(workdir), json.dumps(model)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    count, *values = json.loads(done.stdout.strip().splitlines()[-1])
    assert count == devices
    return values


def test_eight_devices_give_the_loss_of_one(eight_clips, tmp_path):
    data, model = eight_clips
    one = losses(1, data, tmp_path / "one", model)
    eight = losses(8, data, tmp_path / "eight", model)
    assert eight == pytest.approx(one, rel=2e-5)
