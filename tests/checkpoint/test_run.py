"""The model of a run that has not finished is that of its newest valid checkpoint."""

import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.checkpoint.integrity import MANIFEST
from champ_jax.checkpoint.run import is_model, open_model
from champ_jax.checkpoint.store import Saver
from champ_jax.errors import UserError

MODEL = {"unet": {"heads": 2}}


@pytest.fixture
def run(tmp_path):
    """A run with the steps 1 and 2, which differ in the average."""
    with Saver(tmp_path / "checkpoints", 5) as saver:
        for step in (1, 2):
            saver.save(step, {"ema": {"unet": {"w": jnp.full(3, step)}}, "trained": {"unet": {"w": jnp.zeros(3)}}}, {"model": MODEL})
        saver.wait()
    return tmp_path


def test_the_newest_valid_checkpoint_is_the_model(run):
    params, config = open_model(run)
    assert is_model(run) and config == MODEL
    np.testing.assert_array_equal(params["unet"]["w"], [2, 2, 2])
    assert open_model(run, shapes_only=True)[0]["unet"]["w"].shape == (3,)
    (run / "checkpoints/00000002" / MANIFEST).unlink()
    np.testing.assert_array_equal(open_model(run)[0]["unet"]["w"], [1, 1, 1])


def test_a_run_without_checkpoints_is_no_model(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds neither weights"):
        open_model(tmp_path)
