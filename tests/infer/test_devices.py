"""Two devices make the video that one makes, sharing its windows, or the two halves of a guided one."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.infer.tiny import SIZE, save_tiny

CODE = """
import sys
import jax
import numpy as np
from champ_jax.infer.pipeline import load_pipeline
pipe = load_pipeline(sys.argv[1])
size = pipe.settings.size
draw = lambda *shape: np.random.default_rng(0).integers(0, 256, (*shape, *size, 3), np.uint8)
frames = {str(batch): pipe.animate(draw(), {"depth": draw(9), "dwpose": draw(9)}, window_batch=batch).frames for batch in (1, 2)}
print(jax.local_device_count())
np.savez(sys.argv[2], **frames)
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    weights = save_tiny(folder / "model")
    found = {}
    for devices in (1, 2):
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        out = folder / f"{devices}.npz"
        command = [sys.executable, "-c", CODE, str(weights), str(out)]
        printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        assert printed.split()[-1] == str(devices)
        found[devices] = dict(np.load(out))
    return found


@pytest.mark.parametrize("batch", ["1", "2"], ids=["halves", "windows"])
def test_two_devices_make_the_video_of_one(videos, batch):
    one, two = videos[1][batch], videos[2][batch]
    assert one.shape == (9, *SIZE, 3) and np.abs(one.astype(int) - two).max() <= 1
