"""Training on what `champ-jax prepare` makes."""

import numpy as np

from champ_jax.train.loop import train
from tests.data.prepare.test_prepare import records_of, video


def test_a_step_of_stage_b_on_frames_and_skeletons_alone(tmp_path, small):
    """Neither music nor faces nor maps: any subset is a training set."""
    for name in "ab":
        video(tmp_path / "in" / f"{name}.mkv")
    records_of(tmp_path / "in", tmp_path / "data")
    config = small("B", steps=1)
    with config.unlocked():
        config.data.directory, config.data.validation_split = str(tmp_path / "data"), "train"
    assert np.isfinite(train(config, tmp_path / "run")["last"])
